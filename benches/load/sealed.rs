//! Reading through TLS without decrypting.
//!
//! A client that decrypts works about as much as the server that encrypts, and as they share a machine, half of what
//! is measured would be the client. But the length of an answer can be seen from outside: each record says how long
//! it is. What is sent is sealed with another key than what comes, so that a connection whose answers nobody has
//! opened goes on taking requests.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use rustls::ClientConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::address::{Address, Connected};
use crate::manifest::MANIFEST_ACCEPT;
use crate::pull::Readable;
use crate::report::Sample;

/// About what hyper reads at once from a quick server.
const BUFFER_BYTES: usize = 256 << 10;
/// An answer's head that is longer is a mistake.
const HEAD_BYTES: usize = 16 << 10;
/// The longest wait for the next bytes: an answer that is shorter than expected is seen by this alone.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// RFC 8446, section 5.2: type, version, length.
const RECORD_HEADER_BYTES: usize = 5;
const APPLICATION_DATA: u8 = 23;
/// What a record has beside its content: the inner type and the tag. None of the servers pads.
const RECORD_OVERHEAD_BYTES: usize = 1 + 16;

/// A connection to one server, whose answers to GET are counted and not opened.
pub(crate) struct SealedClient {
    address: Address,
    stream: TcpStream,
    tls: ClientConnection,
    head_bytes: u64,
    buffer: Vec<u8>,
}

impl SealedClient {
    /// Connects and asks once whether `thing` is there. That answer is decrypted, and so is what servers send after a
    /// handshake, which would otherwise be counted. `head_bytes` is from [`head_bytes`].
    ///
    /// # Errors
    /// When the server cannot be reached or has it not, or it is not spoken to through TLS.
    pub(crate) async fn open(address: &Address, head_bytes: u64, thing: &Readable) -> Result<Self> {
        let mut stream = connect(address).await?;
        stream.write_all(&question(&Method::HEAD, address, thing)?).await?;
        let (head, rest) = read_head(&mut stream).await?;
        ensure!(rest == 0, "{rest} bytes behind a head of {head}, which ends its answer");
        let (stream, tls) = stream.into_inner();
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self { address: address.clone(), stream, tls, head_bytes, buffer })
    }

    /// Reads `thing` once. The sample's wait is the time to the first byte of the answer.
    ///
    /// # Errors
    /// When what comes is longer or shorter than head and content together.
    pub(crate) async fn read(&mut self, thing: &Readable) -> Result<Sample> {
        let begin = Instant::now();
        self.send(&question(&Method::GET, &self.address, thing)?).await?;
        let expected = self.head_bytes + thing.size_bytes();
        let mut records = Records::default();
        let mut first_byte = None;
        while !records.are(expected)? {
            let read = timeout(STALL_TIMEOUT, self.stream.read(&mut self.buffer))
                .await
                .with_context(|| format!("{} of {expected} bytes came", records.content_bytes))??;
            ensure!(read > 0, "broken off after {} bytes", records.content_bytes);
            first_byte.get_or_insert_with(Instant::now);
            records.take(&self.buffer[..read])?;
        }
        let wait = first_byte.map_or(Duration::ZERO, |time| time - begin);
        Ok(Sample { content_bytes: thing.size_bytes(), wait, total: begin.elapsed() })
    }

    async fn send(&mut self, plain: &[u8]) -> Result<()> {
        self.tls.writer().write_all(plain)?;
        let mut sealed = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sealed)?;
        }
        Ok(self.stream.write_all(&sealed).await?)
    }
}

/// How long the head of the answer is with which `address` gives `thing`, and others of the same length.
///
/// # Errors
/// When it does not give it.
pub(crate) async fn head_bytes(address: &Address, thing: &Readable) -> Result<u64> {
    let mut stream = connect(address).await?;
    stream.write_all(&question(&Method::GET, address, thing)?).await?;
    let (head, _) = read_head(&mut stream).await?;
    Ok(head as u64)
}

async fn connect(address: &Address) -> Result<TlsStream<TcpStream>> {
    match address.connect().await? {
        Connected::Tls(stream) => Ok(*stream),
        Connected::Plain(_) => bail!("without TLS there is nothing that could be left undecrypted"),
    }
}

/// What [`Readable::read`] sends.
fn question(method: &Method, address: &Address, thing: &Readable) -> Result<Vec<u8>> {
    let (path, host) = (thing.path(), address.host().to_str()?);
    Ok(format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept: {MANIFEST_ACCEPT}\r\n\r\n")
        .into_bytes())
}

/// Reads an answer's head; returns its length and how many bytes came behind it.
async fn read_head(stream: &mut TlsStream<TcpStream>) -> Result<(usize, usize)> {
    const BLANK_LINE: &[u8] = b"\r\n\r\n";
    let mut read = Vec::new();
    loop {
        let count = timeout(STALL_TIMEOUT, stream.read_buf(&mut read)).await??;
        ensure!(count > 0, "broken off within the head of an answer");
        let end = read.windows(BLANK_LINE.len()).position(|window| window == BLANK_LINE);
        if let Some(end) = end {
            let head = end + BLANK_LINE.len();
            ensure!(
                read.starts_with(b"HTTP/1.1 200 "),
                "{}",
                String::from_utf8_lossy(&read[..end])
            );
            return Ok((head, read.len() - head));
        }
        ensure!(read.len() < HEAD_BYTES, "the head of an answer has no end");
    }
}

/// The records of an answer, as they come.
#[derive(Default)]
struct Records {
    /// The beginning of the next record.
    header: Vec<u8>,
    /// What has not come of the record that was begun.
    left: usize,
    /// Of all records that were begun.
    content_bytes: u64,
}

impl Records {
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let missing = RECORD_HEADER_BYTES - self.header.len();
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            self.header.extend_from_slice(part);
            bytes = rest;
            if self.header.len() == RECORD_HEADER_BYTES {
                self.begin()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        let kind = self.header[0];
        ensure!(kind == APPLICATION_DATA, "a record of type {kind} within an answer");
        self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        let content = self.left.checked_sub(RECORD_OVERHEAD_BYTES);
        self.content_bytes += content.context("a record without a tag")? as u64;
        self.header.clear();
        Ok(())
    }

    /// Whether they are whole and hold so many bytes.
    fn are(&self, expected: u64) -> Result<bool> {
        ensure!(self.content_bytes <= expected, "{} bytes, not {expected}", self.content_bytes);
        Ok(self.content_bytes == expected && self.left == 0)
    }
}
