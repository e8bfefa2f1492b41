//! The face to other nodes, on a listener of its own.
//!
//! What is asked and answered has its form from [`cluster::wire`](crate::cluster::wire), which also says what each
//! status means among nodes. Nothing is logged for each request, nor counted with those of clients.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;

use super::{
    body::{Body, RequestBody, collect},
    listener::{Limits, OverTls, Service},
    part::{CopyMemory, PartStream},
    sendfile::FileLane,
};
use crate::{
    cluster::{
        Epoch, NodeId,
        wire::{
            self, ANSWER_BYTES, Answer, Ask, CallAnswer, Carrier, Guard, Pass, QUESTION_BYTES,
            Refusal, Trust, write_node,
        },
    },
    runtime::{BodyError, ByteBudget, ByteSize, Tasks},
};

/// Limits of the listener for other nodes. A question has small headers and at most 64 KiB, so that nothing larger is
/// read at once. A node keeps a connection that it does not use for 20 s, and others want its place; and it reads what
/// it has asked for, or goes away.
pub const PEER_LIMITS: Limits = Limits {
    connections: 4096,
    header_max: ByteSize(16 << 10),
    header_timeout: Duration::from_secs(30),
    write_timeout: Duration::from_secs(30),
    unsent_bytes: UNSENT_BYTES,
};

/// What has been written and not sent is lost when another node finds somebody quicker. With 512 KiB, as for clients, 16
/// nodes at 50 Mbit/s sent half as much again as was of use.
const UNSENT_BYTES: u32 = 32 << 10;

/// No byte of a question for this long ends the request.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node has to say to others.
///
/// # Cancel safety
/// Futures are dropped when the node that asked has gone away.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers who asks for a part of a blob or for its table: with all bytes from [`Ask::offset`] on. The head of the
    /// answer is sent at once, also if the first byte comes later.
    fn ask(&self, ask: Ask) -> impl Future<Output = Answer<PartStream>> + Send;

    /// Answers a small question: `name` is 1 to 64 small letters, digits and dashes, `question` has at most 64 KiB.
    fn call(&self, name: &str, question: Bytes) -> impl Future<Output = CallAnswer> + Send;

    /// Who this is, in JSON.
    fn hello(&self) -> Bytes;

    /// Who this is, and what it knows of the others.
    fn node(&self) -> (NodeId, Epoch);
}

/// Answers other nodes by a [`PeerHandler`].
#[derive(Debug)]
pub struct PeerFace<H> {
    handler: Arc<H>,
    guard: Guard,
    memory: CopyMemory,
    tasks: Tasks,
}

/// What is known of a request that was let in.
struct Admitted<'a> {
    head: &'a Parts,
    pass: &'a Pass,
    lane: Option<FileLane>,
}

impl<H: PeerHandler> PeerFace<H> {
    /// Answers those whom `trust` lets in. With certificates, the listener has to speak TLS with them
    /// ([`wire::PeerCertificates::server`]). Bytes that go through this process are paid for from `budget`.
    #[must_use]
    pub fn new(handler: Arc<H>, trust: &Trust, budget: ByteBudget, tasks: Tasks) -> Arc<Self> {
        let (guard, memory) = (Guard::new(trust), CopyMemory::new(budget));
        Arc::new(Self { handler, guard, memory, tasks })
    }

    async fn answer(&self, admitted: Admitted<'_>, body: RequestBody) -> Response<Body> {
        match wire::Request::parse(admitted.head) {
            Ok(wire::Request::Ask(ask)) => self.part(*ask, admitted).await,
            Ok(wire::Request::Call(name)) => self.call(&name, admitted.pass, body).await,
            Ok(wire::Request::Hello) => {
                let mut response =
                    whole(Response::new(()), self.handler.hello(), admitted.pass).await;
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(invalid) => told(StatusCode::BAD_REQUEST, invalid.to_string()),
        }
    }

    async fn part(&self, ask: Ask, admitted: Admitted<'_>) -> Response<Body> {
        let offset = ask.offset;
        let answer = self.handler.ask(ask).await;
        let length_bytes = match &answer {
            Answer::Bytes { length, .. } => *length,
            Answer::Refer { .. }
            | Answer::Busy { .. }
            | Answer::Pass
            | Answer::Unknown
            | Answer::Failed { .. } => 0,
        };
        let (head, part) = answer.into_head(offset);
        match part {
            None => head.map(|()| Body::empty()),
            Some(PartStream::Bytes(bytes)) => whole(head, bytes, admitted.pass).await,
            Some(part) => head.map(|()| self.memory.body(part, length_bytes, admitted.lane)),
        }
    }

    async fn call(&self, name: &str, pass: &Pass, body: RequestBody) -> Response<Body> {
        let body = body.into_stream(QUESTION_TIMEOUT);
        let question = match collect(body, QUESTION_BYTES as u64).await {
            Ok(question) => question,
            Err(error @ BodyError::TooLarge { .. }) => {
                return told(StatusCode::PAYLOAD_TOO_LARGE, error.to_string());
            }
            Err(error) => return told(StatusCode::BAD_REQUEST, error.to_string()),
        };
        if let Err(invalid) = pass.check_body(&question).await {
            return told(StatusCode::BAD_REQUEST, invalid.to_string());
        }
        let mut answer = self.handler.call(name, question).await;
        if let CallAnswer::Answered(bytes) = &answer
            && bytes.len() > ANSWER_BYTES
        {
            tracing::error!(
                name,
                size_bytes = bytes.len(),
                "an answer is too long for another node"
            );
            answer = CallAnswer::Failed { is_retryable: false };
        }
        let (head, bytes) = answer.into_head();
        whole(head, bytes, pass).await
    }
}

impl<H: PeerHandler> Service for PeerFace<H> {
    /// Answers one request of another node.
    async fn call(
        self: Arc<Self>,
        peer: SocketAddr,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        let lane = request.extensions_mut().remove::<FileLane>();
        let is_over_tls = request.extensions().get::<OverTls>().is_some();
        let carrier = if is_over_tls { Carrier::Tls } else { Carrier::Plain };
        let (head, body) = request.into_parts();
        // Read to its end also if it is refused: whoever has to ask again wants to read why.
        let body = RequestBody::new(body, self.tasks.clone());
        let (mut response, pass) = match self.guard.admit((peer, carrier), &head) {
            Ok(pass) => {
                let admitted = Admitted { head: &head, pass: &pass, lane };
                (self.answer(admitted, body).await, pass)
            }
            Err(refusal) => refused(peer, refusal),
        };
        let length_bytes = response.body().remaining_bytes();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length_bytes.into());
        write_node(headers, self.handler.node());
        pass.seal(&mut response);
        response
    }
}

/// An answer whose body can be proven, because all of it is there.
async fn whole(mut head: Response<()>, body: Bytes, pass: &Pass) -> Response<Body> {
    pass.take_in(&body, head.headers_mut()).await;
    head.map(|()| Body::full(body))
}

fn told(status: StatusCode, what: String) -> Response<Body> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    text(head, what)
}

fn text(mut head: Response<()>, what: String) -> Response<Body> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    head.headers_mut().insert(header::CONTENT_TYPE, plain);
    head.map(|()| Body::full(what + "\n"))
}

fn refused(peer: SocketAddr, refusal: Refusal) -> (Response<Body>, Pass) {
    // Whoever asked is told and logs it, if it is a node at all.
    tracing::debug!(%peer, error = %refusal, "a request of another node was refused");
    let what = refusal.to_string();
    let (head, pass) = refusal.into_head();
    (text(head, what), pass)
}
