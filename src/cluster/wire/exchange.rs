//! One question and its answer, and the proofs that both are genuine.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{
    Error, InvalidMessage, PartBody, Trust,
    clock::{Reading, RemoteClock},
    connection::{Connection, Connections},
    fields::{self, Fields, value},
    seal::{Nonce, SharedSecret, digest_of},
};
use crate::{oci::Digest, runtime::Tasks};

/// Longest text with which a node says what is wrong, in bytes.
const TOLD_BYTES: usize = 200;

/// Nodes whose clocks are known; about 60 bytes each. One that is forgotten costs a request more.
const CLOCKS_MOST: usize = 16 << 10;

/// Sends questions and receives answers.
#[derive(Debug)]
pub(super) struct Exchange {
    connections: Connections,
    /// With what requests are sealed, if they are.
    secret: Option<SharedSecret>,
    clocks: Mutex<HashMap<SocketAddr, RemoteClock>>,
    patience: Duration,
}

/// A question before it is sealed.
pub(super) struct Outgoing {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// An answer before its body is read.
pub(super) struct Reply {
    pub(super) node: SocketAddr,
    pub(super) head: Response<()>,
    body: Incoming,
    connection: Connection,
    proof: Proof,
}

/// How an answer is known to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// It came over the connection, which is enough.
    Connection,
    /// It has its seal.
    Seal,
    /// It should have a seal and has none, or not the right one.
    Missing,
}

impl Outgoing {
    pub(super) fn new((method, path): (Method, &str), mut headers: HeaderMap, body: Bytes) -> Self {
        headers.insert(&fields::PROTOCOL, value(fields::VERSION));
        let uri = Uri::try_from(path).expect("the paths of the protocol are ones of HTTP");
        Self { method, uri, headers, body }
    }
}

impl Exchange {
    pub(super) fn new(trust: Trust, patience: Duration, tasks: Tasks) -> Self {
        let secret = match &trust {
            Trust::Secret(secret) => Some(secret.clone()),
            Trust::Loopback | Trust::Certificates(_) => None,
        };
        let connections = Connections::new(trust, tasks);
        Self { connections, secret, clocks: Mutex::default(), patience }
    }

    pub(super) fn close(&self) {
        self.connections.close();
    }

    /// Has the seal of a question take in its body.
    pub(super) async fn take_in(&self, body: &Bytes, headers: &mut HeaderMap) {
        if self.secret.is_some() {
            headers.insert(&fields::DIGEST, value(digest_of(body).await.to_string()));
        }
    }

    /// Asks the node and waits for the head of its answer.
    pub(super) async fn send(&self, node: SocketAddr, outgoing: &Outgoing) -> Result<Reply, Error> {
        let sent = timeout(self.patience, self.converse(node, outgoing)).await;
        sent.unwrap_or_else(|_elapsed| {
            // If the machine has gone, the next one who asks finds that out by connecting.
            self.connections.forget(node);
            Err(Error::TimedOut { node, after: self.patience })
        })
    }

    /// A node is asked twice if its clock is not known, or not any more because it has been started anew.
    async fn converse(&self, node: SocketAddr, outgoing: &Outgoing) -> Result<Reply, Error> {
        let reply = self.attempt(node, outgoing).await?;
        let Some(shown) = reply.clock() else { return reply.accepted().await };
        let _why = reply.told().await;
        self.learn(node, shown);
        self.attempt(node, outgoing).await?.accepted().await
    }

    /// Asks over a connection that is there, or else over a new one.
    async fn attempt(&self, node: SocketAddr, outgoing: &Outgoing) -> Result<Reply, Error> {
        if let Some(connection) = self.connections.idle_to(node).await {
            match self.send_over(connection, node, outgoing).await {
                // Most likely the node has closed it, or has gone and come back.
                Err(Error::Broken { .. }) => {}
                sent => return sent,
            }
        }
        let connection = self.connections.open(node).await?;
        self.send_over(connection, node, outgoing).await
    }

    async fn send_over(
        &self,
        mut connection: Connection,
        node: SocketAddr,
        outgoing: &Outgoing,
    ) -> Result<Reply, Error> {
        let mut request = Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = outgoing.uri.clone();
        *request.headers_mut() = outgoing.headers.clone();
        request.headers_mut().insert(header::HOST, value(node.to_string()));
        let sealing = self.secret.as_ref().map(|secret| (secret, Nonce::draw()));
        if let Some((secret, nonce)) = sealing {
            let headers = request.headers_mut();
            headers.insert(&fields::NONCE, value(nonce.to_string()));
            if let Some(now) = self.time_at(node) {
                headers.insert(&fields::CLOCK, value(now.to_string()));
            }
            secret.seal_request((outgoing.method.as_str(), outgoing.uri.path()), headers);
        }
        let (parts, body) = connection.send(request).await?.into_parts();
        let head = Response::from_parts(parts, ());
        let proof = match sealing {
            None => Proof::Connection,
            Some((secret, nonce)) if secret.is_answer_sealed(nonce, &head) => Proof::Seal,
            Some(_) => Proof::Missing,
        };
        Ok(Reply { node, head, body, connection, proof })
    }

    fn time_at(&self, node: SocketAddr) -> Option<Reading> {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.get(&node).map(|clock| clock.now())
    }

    fn learn(&self, node: SocketAddr, shown: Reading) {
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        if clocks.len() >= CLOCKS_MOST {
            clocks.clear();
        }
        clocks.insert(node, RemoteClock::showing(shown));
    }
}

impl Reply {
    /// The digest of the body, if it has one that is proven.
    ///
    /// # Errors
    /// If it should have one and has none.
    pub(super) fn digest(&self) -> Result<Option<Digest>, InvalidMessage> {
        match self.proof {
            Proof::Connection | Proof::Missing => Ok(None),
            Proof::Seal => {
                let fields = Fields::of_answer(self.head.headers())?;
                let digest =
                    fields.required((&fields::DIGEST, "a digest"), |text| text.parse().ok());
                digest.map(Some)
            }
        }
    }

    /// The body, which has to have this digest if one is given.
    pub(super) fn into_body(self, digest: Option<Digest>) -> Result<PartBody, Error> {
        let length = Fields::of_answer(self.head.headers()).and_then(|fields| {
            fields.required((&fields::CONTENT_LENGTH, "a number"), fields::number)
        });
        let length_bytes = length.map_err(|error| self.invalid(error))?;
        PartBody::new(self.node, (self.body, self.connection), (length_bytes, digest))
    }

    pub(super) const fn invalid(&self, source: InvalidMessage) -> Error {
        Error::Protocol { node: self.node, source }
    }

    /// What the clock of the node shows, if it was asked without knowing that.
    fn clock(&self) -> Option<Reading> {
        let is_asked_for =
            self.proof == Proof::Seal && self.head.status() == StatusCode::UNAUTHORIZED;
        let shown = self.head.headers().get(&fields::CLOCK).filter(|_| is_asked_for)?;
        shown.to_str().ok().and_then(Reading::parse)
    }

    /// The same, unless it says that the question was not taken, or may be somebody else's.
    async fn accepted(self) -> Result<Self, Error> {
        let node = self.node;
        match (self.head.status(), self.proof) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                Err(Error::Refused { node, why: self.told().await })
            }
            (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, _) => {
                Err(Error::NotUnderstood { node, told: self.told().await })
            }
            (_, Proof::Missing) => {
                let why = "its answer is not sealed with the secret of this cluster".to_owned();
                Err(Error::Refused { node, why })
            }
            (_, Proof::Connection | Proof::Seal) => Ok(self),
        }
    }

    /// The text of an answer that says what is wrong. The connection can be used again if that was all.
    async fn told(mut self) -> String {
        let mut told = Vec::new();
        while told.len() < TOLD_BYTES {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    told.extend_from_slice(frame.data_ref().map_or(&[], |data| data))
                }
                Some(Err(_broken)) => break,
                None => {
                    self.connection.give_back();
                    break;
                }
            }
        }
        told.truncate(TOLD_BYTES);
        let text = String::from_utf8_lossy(&told);
        text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}
