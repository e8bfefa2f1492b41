//! Asking other nodes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::timeout;

use super::{
    Answer, Answered, Ask, CallAnswer, Error, InvalidMessage, PartBody, PartKind, Trust,
    answer::read_node,
    ask::{HELLO, call_path},
    exchange::{Exchange, Outgoing, Reply},
};
use crate::{cluster::Peer, runtime::Tasks};

/// Longest question of a call, in bytes.
pub const QUESTION_BYTES: usize = 64 << 10;

/// Longest answer to a call, in bytes.
pub const ANSWER_BYTES: usize = 16 << 20;

/// How long a whole answer to a call may take once its head is there.
const WHOLE_PATIENCE: Duration = Duration::from_secs(30);

/// Asks other nodes. Cloning shares its connections.
#[derive(Clone, Debug)]
pub struct PeerClient(Arc<Exchange>);

impl PeerClient {
    /// Asks as one whom `trust` lets in. A node has `patience` for the head of each answer; 5 s is plenty. Connections
    /// live in `tasks`, until [`PeerClient::close`] at the latest.
    #[must_use]
    pub fn new(trust: Trust, patience: Duration, tasks: Tasks) -> Self {
        Self(Arc::new(Exchange::new(trust, patience, tasks)))
    }

    /// Ends the connections that nobody uses. Those in use end with the answer they are in.
    pub fn close(&self) {
        self.0.close();
    }

    /// Asks `to` for a part of a blob or for its table. The question may reach the node twice, if it closes a connection
    /// that was kept at that moment.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// May be dropped at any time. That closes the connection.
    pub async fn ask(&self, to: Peer, ask: &Ask) -> Result<Answered<Answer<PartBody>>, Error> {
        let mut headers = HeaderMap::new();
        ask.write(&mut headers);
        let outgoing = Outgoing::new((Method::GET, &ask.path()), headers, Bytes::new());
        let reply = self.0.send(to.address, &outgoing).await?;
        let read = || {
            let (node, epoch) = read_node(reply.head.headers())?;
            let answer = Answer::parse(&reply.head, ask.offset)?;
            let digest = match (ask.part.kind, &answer) {
                (PartKind::Table, Answer::Bytes { .. }) => reply.digest()?,
                _ => None,
            };
            Ok((Answered { node, epoch, answer }, digest))
        };
        let (answered, digest) = read().map_err(|error| reply.invalid(error))?;
        let body = reply.into_body(digest)?;
        Ok(Answered {
            node: answered.node,
            epoch: answered.epoch,
            answer: answered.answer.map(|()| body),
        })
    }

    /// Asks `to` a small question, of at most [`QUESTION_BYTES`]. It may reach the node twice, as in
    /// [`PeerClient::ask`].
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Panics
    /// If no call can have this name.
    ///
    /// # Cancel safety
    /// May be dropped at any time. Whether the question has reached the node is not known then.
    pub async fn call(
        &self,
        to: Peer,
        name: &'static str,
        question: Bytes,
    ) -> Result<Answered<CallAnswer>, Error> {
        if question.len() > QUESTION_BYTES {
            return Err(Error::TooLarge { node: to.address, limit_bytes: QUESTION_BYTES });
        }
        let mut headers = HeaderMap::new();
        self.0.take_in(&question, &mut headers).await;
        let outgoing = Outgoing::new((Method::POST, &call_path(name)), headers, question);
        let reply = self.0.send(to.address, &outgoing).await?;
        let read = || {
            let (node, epoch) = read_node(reply.head.headers())?;
            Ok(Answered { node, epoch, answer: CallAnswer::parse(&reply.head)? })
        };
        let mut answered = read().map_err(|error| reply.invalid(error))?;
        if let CallAnswer::Answered(bytes) = &mut answered.answer {
            *bytes = whole(reply).await?;
        }
        Ok(answered)
    }

    /// Asks who is at `address`. The answer is JSON.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// As [`PeerClient::ask`].
    pub async fn hello(&self, address: SocketAddr) -> Result<Bytes, Error> {
        let outgoing = Outgoing::new((Method::GET, HELLO), HeaderMap::new(), Bytes::new());
        let reply = self.0.send(address, &outgoing).await?;
        read_node(reply.head.headers()).map_err(|error| reply.invalid(error))?;
        let status = reply.head.status();
        if status != StatusCode::OK {
            return Err(reply.invalid(InvalidMessage::Status { status: status.as_u16() }));
        }
        whole(reply).await
    }
}

/// The whole body of a small answer.
async fn whole(reply: Reply) -> Result<Bytes, Error> {
    let node = reply.node;
    let digest = reply.digest().map_err(|error| reply.invalid(error))?;
    let body = reply.into_body(digest)?;
    if body.left_bytes() > ANSWER_BYTES as u64 {
        return Err(Error::TooLarge { node, limit_bytes: ANSWER_BYTES });
    }
    let read = timeout(WHOLE_PATIENCE, body.whole()).await;
    read.unwrap_or(Err(Error::TimedOut { node, after: WHOLE_PATIENCE }))
}
