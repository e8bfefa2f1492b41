//! Datagrams of gossip, signed.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use chitchat::{
    ChitchatEnvelope,
    transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpSocket as Codec},
};
use tokio::{
    net::UdpSocket,
    time::{self, Instant},
};

use crate::runtime::Secret;

/// Longest datagram that UDP over IPv4 can carry.
const DATAGRAM_MOST: usize = 65_507;

/// Bytes of a signature, at the end of a datagram.
const SIGNATURE_BYTES: usize = 32;

/// What the key for gossip is made of, besides the secret, which other things are protected by too.
const PURPOSE: &[u8] = b"millpond gossip 1";

/// Longest time that a message takes within this process, which is microseconds.
const CODEC_TIMEOUT: Duration = Duration::from_secs(1);

/// After a failure of the socket, before it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Signs datagrams and knows signed ones.
#[derive(Clone)]
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(secret: &Secret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let key = hmac::sign(&key, PURPOSE);
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        [message, hmac::sign(&self.0, message).as_ref()].concat()
    }

    /// The message in a datagram, if its signature is right. An older datagram is right again: what is in it has
    /// versions, so that it says nothing new.
    fn open<'d>(&self, datagram: &'d [u8]) -> Option<&'d [u8]> {
        let (message, signature) =
            datagram.split_at_checked(datagram.len().checked_sub(SIGNATURE_BYTES)?)?;
        hmac::verify(&self.0, message, signature).ok().map(|()| message)
    }
}

/// Gives chitchat a socket whose datagrams are signed. Once.
pub(super) struct SignedTransport {
    socket: Mutex<Option<SignedSocket>>,
}

impl SignedTransport {
    /// Listens on the address.
    pub(super) async fn listen(address: SocketAddr, signer: Signer) -> io::Result<Self> {
        let socket = SignedSocket::listen(address, signer).await?;
        Ok(Self { socket: Mutex::new(Some(socket)) })
    }
}

#[async_trait]
impl Transport for SignedTransport {
    async fn open(&self, _address: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let socket = socket.ok_or_else(|| anyhow::anyhow!("the socket is taken"))?;
        Ok(Box::new(socket))
    }
}

/// A socket whose datagrams are signed.
///
/// chitchat lets nobody but its own sockets write and read messages as bytes. So it has one, the codec, on the loopback
/// device: what it sends there is signed and sent on, and what comes with a right signature is sent to it.
struct SignedSocket {
    signer: Signer,
    outside: UdpSocket,
    codec: Codec,
    /// Connected with the codec, so that nothing comes here from elsewhere.
    inside: UdpSocket,
    inside_address: SocketAddr,
    /// Whom the message is from that the codec has been sent, and until when it is waited for.
    opening: Option<(SocketAddr, Instant)>,
    buffer: Vec<u8>,
}

impl SignedSocket {
    async fn listen(address: SocketAddr, signer: Signer) -> io::Result<Self> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let outside = UdpSocket::bind(address).await?;
        let codec = Codec::open(loopback).await.map_err(io::Error::other)?;
        let inside = UdpSocket::bind(loopback).await?;
        inside.connect(codec.local_addr().map_err(io::Error::other)?).await?;
        Ok(Self {
            signer,
            outside,
            inside_address: inside.local_addr()?,
            codec,
            inside,
            opening: None,
            buffer: vec![0; DATAGRAM_MOST],
        })
    }

    /// The next message that the codec has opened; `None` if it cannot.
    async fn opened(&mut self) -> anyhow::Result<Option<RecvOutcome>> {
        let Some((from_addr, until)) = self.opening else { return Ok(None) };
        let opened = time::timeout_at(until, self.codec.recv()).await;
        self.opening = None;
        let Ok(opened) = opened else {
            tracing::debug!(%from_addr, "a message of gossip cannot be understood");
            return Ok(None);
        };
        let opened = opened?;
        // Anybody on this machine can send something to the codec.
        let is_ours = opened.from_addr == self.inside_address;
        Ok(is_ours.then_some(RecvOutcome { from_addr, ..opened }))
    }

    /// Sends the codec what is in the next datagram, if its signature is right.
    async fn receive(&mut self) -> io::Result<()> {
        let (length, from) = self.outside.recv_from(&mut self.buffer).await?;
        let Some(message) = self.signer.open(&self.buffer[..length]) else {
            tracing::debug!(%from, length, "a datagram of gossip is not signed with this secret");
            return Ok(());
        };
        self.inside.send(message).await?;
        self.opening = Some((from, Instant::now() + CODEC_TIMEOUT));
        Ok(())
    }
}

#[async_trait]
impl Socket for SignedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.outside.local_addr()?)
    }

    async fn send(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        self.codec.send(self.inside_address, envelope).await?;
        let length = time::timeout(CODEC_TIMEOUT, self.inside.recv(&mut self.buffer)).await??;
        let datagram = self.signer.sign(&self.buffer[..length]);
        if let Err(error) = self.outside.send_to(&datagram, to).await {
            // A node that cannot be reached is no news, and the next round is soon.
            tracing::debug!(%to, %error, "a datagram of gossip cannot be sent");
        }
        Ok(SendOutcome { num_bytes_sent: datagram.len() })
    }

    /// # Cancel safety
    /// Dropping the future loses at most one datagram.
    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            if let Some(outcome) = self.opened().await? {
                return Ok(outcome);
            }
            if self.opening.is_none()
                && let Err(error) = self.receive().await
            {
                tracing::debug!(%error, "datagrams of gossip cannot be received");
                time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secret: &str) -> Signer {
        Signer::new(&Secret::new(secret.to_owned()))
    }

    #[test]
    fn only_what_was_signed_with_the_same_secret_is_opened() {
        let datagram = signer("a secret").sign(b"message");
        assert_eq!(datagram.len(), b"message".len() + SIGNATURE_BYTES);
        assert_eq!(signer("a secret").open(&datagram), Some(&b"message"[..]));
        assert_eq!(signer("another").open(&datagram), None);
        for place in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[place] ^= 1;
            assert_eq!(signer("a secret").open(&changed), None, "{place}");
            assert_eq!(signer("a secret").open(&datagram[..place]), None, "{place}");
        }
    }
}
