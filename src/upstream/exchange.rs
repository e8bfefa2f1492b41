//! From a question to an upstream's answer: turns, pauses, addresses, attempts, challenges.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode};
use reqwest::{Response, Url};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::{
    Error,
    auth::{Asked, Authenticator, Proof},
    heard::Heard,
    metrics::{Kind, Outcome, UpstreamMetrics},
    pause::Pauses,
    quota::Quota,
    transport::{Answered, Answerer, Connection, Outgoing, Transport, refusal},
};
use crate::oci::RepositoryName;

/// Attempts at one address.
const ATTEMPTS: u32 = 3;

/// Wait before the second attempt; it doubles from attempt to attempt, and half of it is chance.
const BACKOFF: Duration = Duration::from_millis(100);

/// How long an address that could not be reached, or failed, is asked after the others and only once.
const DOWN: Duration = Duration::from_secs(30);

/// One of so many connections is kept free of blobs.
const FREE_OF_BLOBS: usize = 8;

/// Everything between a question and its answer, for one upstream.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) upstream: Arc<str>,
    pub(super) addresses: Vec<Address>,
    pub(super) transport: Arc<Transport>,
    pub(super) authenticator: Authenticator,
    pub(super) pauses: Arc<Pauses>,
    pub(super) quota: Quota,
    pub(super) heard: Arc<Heard>,
    pub(super) turns: Turns,
    pub(super) metrics: Arc<UpstreamMetrics>,
    pub(super) response_timeout: Duration,
}

/// One of the upstream's addresses.
#[derive(Debug)]
pub(super) struct Address {
    url: Url,
    down_until: Mutex<Option<Instant>>,
}

/// Requests that may be under way at once.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    blobs: Arc<Semaphore>,
    /// Turns of blobs, taken or not.
    blobs_most: usize,
}

/// The right to a request; given back when dropped, after the last byte of the body.
#[derive(Debug)]
pub(super) struct Permits {
    _all: OwnedSemaphorePermit,
    _blob: Option<OwnedSemaphorePermit>,
}

/// A question about a repository.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) kind: Kind,
    pub(super) method: Method,
    pub(super) repository: &'a RepositoryName,
    /// What stands behind `/v2/<repository>/`, with the query.
    pub(super) path: &'a str,
    pub(super) headers: HeaderMap,
}

/// A good answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) permits: Permits,
}

/// What one request brought.
#[derive(Debug)]
enum Reply {
    Good(Answered),
    /// The upstream itself wants to know who asks: the headers of its 401.
    Challenge(HeaderMap),
}

impl Exchange {
    /// Asks, within twice the time that one answer may take.
    ///
    /// # Errors
    /// For every status but 200 and 206.
    ///
    /// # Cancel safety
    /// Nothing changes at the upstream; what was learnt until then is kept.
    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Answer, Error> {
        let patience = 2 * self.response_timeout;
        let asked = timeout(patience, self.ask_in_turn(call)).await;
        asked.unwrap_or_else(|_| {
            Err(Error::Timeout { upstream: Arc::clone(&self.upstream), after: patience })
        })
    }

    async fn ask_in_turn(&self, call: &Call<'_>) -> Result<Answer, Error> {
        self.check_pause(call.kind)?;
        let _turn = self.admit(call).await?;
        let permits = self.turns.take(call.kind, self.response_timeout).await;
        let busy = || Error::Busy { upstream: Arc::clone(&self.upstream) };
        let permits = permits.ok_or_else(busy)?;
        let mut result = Err(busy());
        for number in self.order() {
            result = self.ask_address(number, call).await;
            match &result {
                Err(error) if error.is_of_the_address() => self.addresses[number].failed(),
                _ => {
                    self.addresses[number].worked();
                    break;
                }
            }
        }
        match &result {
            Ok(_answer) => self.heard.now(),
            Err(error) if error.is_of_the_address() => self.heard.failed(),
            // It is there, and says so; but who gets nothing from it for one name may get nothing for another.
            Err(_refusal) => {}
        }
        let answered = result.inspect_err(|error| self.heed(call.kind, error))?;
        Ok(Answer { response: answered.response, permits })
    }

    /// Manifests that count against a limit wait for each other when little is left of it.
    async fn admit(&self, call: &Call<'_>) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if call.kind != Kind::Manifest || call.method != Method::GET {
            return Ok(None);
        }
        let admitted = self.quota.admit(self.response_timeout).await;
        admitted.map_err(|exhausted| self.paused(call.kind, exhausted.again_in))
    }

    fn check_pause(&self, kind: Kind) -> Result<(), Error> {
        self.pauses.left(kind).map_or(Ok(()), |left| Err(self.paused(kind, left)))
    }

    fn paused(&self, kind: Kind, left: Duration) -> Error {
        self.metrics.count(kind, Outcome::Paused);
        Error::RateLimited { upstream: Arc::clone(&self.upstream), retry_after: Some(left) }
    }

    /// Leaves the upstream alone if it wants that.
    fn heed(&self, kind: Kind, error: &Error) {
        if let Error::RateLimited { retry_after, .. } = error {
            self.pauses.begin(kind, *retry_after);
            let pause = self.pauses.left(kind).unwrap_or_default();
            tracing::warn!(
                upstream = %self.upstream,
                kind = kind.name(),
                seconds = pause.as_secs(),
                "the upstream wants fewer requests; pausing"
            );
        }
    }

    /// The numbers of the addresses, those that lately failed behind the others.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.addresses.len()).collect();
        order.sort_by_key(|&number| self.addresses[number].is_down());
        order
    }

    async fn ask_address(&self, number: usize, call: &Call<'_>) -> Result<Answered, Error> {
        // Of an address that failed lately, little is expected; once it answers, more.
        let attempts = if self.addresses[number].is_down() { 1 } else { ATTEMPTS };
        let mut attempt = 1;
        loop {
            let result = self.attempt(number, call).await;
            match result {
                Err(error) if self.is_worth_another(&error) && attempt < attempts => {
                    tracing::debug!(upstream = %self.upstream, %error, attempt, "trying again");
                    sleep(backoff(attempt, fastrand::f64())).await;
                    attempt += 1;
                    self.check_pause(call.kind)?;
                }
                result => return result,
            }
        }
    }

    /// Whether to try the same address again. Time that was spent in vain is better spent on another one.
    const fn is_worth_another(&self, error: &Error) -> bool {
        match error {
            Error::Timeout { .. } => self.addresses.len() == 1,
            error => error.is_transient(),
        }
    }

    /// One attempt: one request, and a second one if the first is answered with a challenge.
    async fn attempt(&self, number: usize, call: &Call<'_>) -> Result<Answered, Error> {
        let asked: Asked = (number, call.repository.clone());
        let base = &self.addresses[number].url;
        let known = self.authenticator.known(&asked).await?;
        let headers = match self.send(base, call, known.as_ref()).await? {
            Reply::Good(answered) => return Ok(answered),
            Reply::Challenge(headers) => headers,
        };
        let proof = self.authenticator.answer(&asked, base, &headers, known).await?;
        match self.send(base, call, Some(&proof)).await? {
            Reply::Good(answered) => Ok(answered),
            Reply::Challenge(_) => {
                Err(Error::Denied { upstream: Arc::clone(&self.upstream), status: 401 })
            }
        }
    }

    /// Sends one request, and counts it.
    async fn send(
        &self,
        base: &Url,
        call: &Call<'_>,
        proof: Option<&Proof>,
    ) -> Result<Reply, Error> {
        let started = Instant::now();
        let result = self.request(base, call, proof).await;
        self.metrics.time(call.kind, started.elapsed());
        let outcome = match &result {
            Ok(Reply::Challenge(_)) => Outcome::Challenged,
            Ok(Reply::Good(_)) => Outcome::Ok,
            Err(error) => Outcome::Failed(error),
        };
        self.metrics.count(call.kind, outcome);
        result
    }

    async fn request(
        &self,
        base: &Url,
        call: &Call<'_>,
        proof: Option<&Proof>,
    ) -> Result<Reply, Error> {
        let path = format!("/v2/{}/{}", call.repository, call.path);
        let url = base.join(&path).map_err(|_| Error::Protocol {
            upstream: Arc::clone(&self.upstream),
            what: "a listing goes on at no address",
        })?;
        let request = Outgoing {
            method: call.method.clone(),
            url,
            headers: &call.headers,
            authorization: proof.map(|proof| &proof.header),
            connection: if call.kind == Kind::Blob { Connection::Own } else { Connection::Shared },
        };
        let answered = self.transport.send(request).await?;
        self.judge(answered)
    }

    fn judge(&self, answered: Answered) -> Result<Reply, Error> {
        let (status, headers) = (answered.response.status(), answered.response.headers());
        if answered.by == Answerer::Upstream {
            self.quota.observe(headers);
        }
        match (status, answered.by) {
            (StatusCode::OK | StatusCode::PARTIAL_CONTENT, _) => Ok(Reply::Good(answered)),
            (StatusCode::UNAUTHORIZED, Answerer::Upstream) => Ok(Reply::Challenge(headers.clone())),
            // Whoever the upstream sends this side to knows nothing of its credentials.
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Answerer::Other) => {
                let upstream = Arc::clone(&self.upstream);
                Err(Error::Status { upstream, status: status.as_u16() })
            }
            _ => Err(refusal(&self.upstream, status, headers)),
        }
    }
}

impl Address {
    pub(super) const fn new(url: Url) -> Self {
        Self { url, down_until: Mutex::new(None) }
    }

    fn failed(&self) {
        *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + DOWN);
    }

    fn worked(&self) {
        *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_down(&self) -> bool {
        let until = *self.down_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

impl Turns {
    pub(super) fn new(connections: usize) -> Self {
        let kept_free = connections.div_ceil(FREE_OF_BLOBS).min(connections.saturating_sub(1));
        let blobs = connections - kept_free;
        Self {
            all: Arc::new(Semaphore::new(connections)),
            blobs: Arc::new(Semaphore::new(blobs)),
            blobs_most: blobs,
        }
    }

    /// Whether at least half of the turns that blobs may take are free.
    pub(super) fn are_mostly_free(&self) -> bool {
        2 * self.blobs.available_permits() >= self.blobs_most
    }

    /// Waits for a turn, no longer than `patience`.
    async fn take(&self, kind: Kind, patience: Duration) -> Option<Permits> {
        let take = async {
            let blob = match kind {
                Kind::Blob => Some(Arc::clone(&self.blobs).acquire_owned().await.ok()?),
                Kind::Manifest | Kind::Tags | Kind::Referrers | Kind::Token => None,
            };
            let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Permits { _all: all, _blob: blob })
        };
        timeout(patience, take).await.ok().flatten()
    }
}

/// The wait after attempt number `attempt`; `chance` is from 0 to 1.
fn backoff(attempt: u32, chance: f64) -> Duration {
    (BACKOFF * 2_u32.saturating_pow(attempt - 1)).mul_f64(0.5 + chance)
}
