//! Who may ask a node.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, request::Parts};

use super::{
    Trust,
    clock::{Clock, Reading},
    fields::{self, Fields, InvalidMessage, value},
    nonces::{Nonces, Seen},
    seal::{Nonce, SharedSecret, digest_of},
};
use crate::oci::Digest;

/// How old a request may be: as long as who asks waits for an answer, and much more.
const OLDEST_MS: i64 = 30_000;

/// How much younger than now: nothing but the difference between two clocks that count seconds.
const YOUNGEST_MS: i64 = -1_000;

/// How long a request is remembered: until a copy of it is too old.
const REMEMBERED_MS: u64 = (OLDEST_MS - YOUNGEST_MS).cast_unsigned() + 1_000;

/// When to come back if there were more requests than can be remembered.
const TOO_MANY: Duration = Duration::from_secs(5);

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// As it is.
    Plain,
    /// Over TLS, and whoever sent it has shown a certificate if the listener demands one.
    Tls,
}

/// Lets in those who may ask a node, and no copy of what they have asked.
#[derive(Debug)]
pub struct Guard(Kind);

#[derive(Debug)]
enum Kind {
    Loopback,
    Secret { secret: SharedSecret, clock: Clock, nonces: Mutex<Nonces> },
    Certificates,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It comes from another machine, and nothing says from whom.
    #[error(
        "this node has neither a secret nor certificates and takes requests of its own machine only"
    )]
    Elsewhere,
    /// It did not come over TLS, by which alone it is known who asks.
    #[error("this node takes requests over TLS only")]
    WithoutTls,
    /// It is sealed with another secret, was changed on its way, or is not sealed.
    #[error("the request is not sealed with the secret of this cluster")]
    Seal,
    /// It does not say what the time is here, or it is too old. It may be sent again with what the answer says.
    #[error("the request does not say what the time is here, or it is too old")]
    Time(Pass, String),
    /// It has been here before.
    #[error("the request has been here before")]
    Again(Pass),
    /// There are too many to tell whether it has been here before.
    #[error("there are too many requests")]
    TooMany(Pass),
    /// It is not part of the protocol.
    #[error(transparent)]
    Message(#[from] InvalidMessage),
}

/// A request was let in: what is needed to answer it.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    sealed: Option<(SharedSecret, Nonce)>,
    /// Of its body.
    digest: Option<Digest>,
}

impl Guard {
    /// Lets in whoever `trust` says.
    #[must_use]
    pub fn new(trust: &Trust) -> Self {
        Self(match trust {
            Trust::Loopback => Kind::Loopback,
            Trust::Secret(secret) => Kind::Secret {
                secret: secret.clone(),
                clock: Clock::start(),
                nonces: Mutex::new(Nonces::new(REMEMBERED_MS)),
            },
            Trust::Certificates(_) => Kind::Certificates,
        })
    }

    /// Whether a request may come in, by its head alone. Its body is to be held against the pass.
    ///
    /// # Errors
    /// [`Refusal`], which is the answer.
    pub fn admit(
        &self,
        (from, carrier): (SocketAddr, Carrier),
        head: &Parts,
    ) -> Result<Pass, Refusal> {
        fields::check_protocol(&head.headers)?;
        match &self.0 {
            Kind::Loopback if from.ip().to_canonical().is_loopback() => Ok(Pass::default()),
            Kind::Loopback => Err(Refusal::Elsewhere),
            Kind::Certificates if carrier == Carrier::Tls => Ok(Pass::default()),
            Kind::Certificates => Err(Refusal::WithoutTls),
            Kind::Secret { secret, clock, nonces } => {
                let pass = check_seal(secret, head)?;
                let now = clock.now();
                if !is_of_now(head, now)? {
                    return Err(Refusal::Time(pass, now.to_string()));
                }
                let Some((_, nonce)) = pass.sealed else { return Ok(pass) };
                let mut nonces = nonces.lock().unwrap_or_else(PoisonError::into_inner);
                match nonces.note(nonce.short(), now.ms) {
                    Seen::First => Ok(pass),
                    Seen::Again => Err(Refusal::Again(pass)),
                    Seen::TooMany => Err(Refusal::TooMany(pass)),
                }
            }
        }
    }
}

fn check_seal(secret: &SharedSecret, head: &Parts) -> Result<Pass, Refusal> {
    if !secret.is_request_sealed(head) {
        return Err(Refusal::Seal);
    }
    let fields = Fields::of_request(&head.headers)?;
    let nonce = fields.required((&fields::NONCE, "32 hexadecimal digits"), Nonce::parse)?;
    let digest = fields.optional((&fields::DIGEST, "a digest"), |text| text.parse().ok())?;
    Ok(Pass { sealed: Some((secret.clone(), nonce)), digest })
}

fn is_of_now(head: &Parts, now: Reading) -> Result<bool, InvalidMessage> {
    let fields = Fields::of_request(&head.headers)?;
    let said = fields.optional((&fields::CLOCK, "what a clock shows"), Reading::parse)?;
    let age = said.and_then(|said| now.since(said));
    Ok(age.is_some_and(|age| (YOUNGEST_MS..=OLDEST_MS).contains(&age)))
}

impl Pass {
    /// Whether the body of the request is the one it was sealed with.
    ///
    /// # Errors
    /// If it is not.
    pub async fn check_body(&self, body: &Bytes) -> Result<(), InvalidMessage> {
        if self.sealed.is_none() {
            return Ok(());
        }
        let announced =
            self.digest.ok_or(InvalidMessage::Missing { name: fields::DIGEST.as_str() });
        if announced? == digest_of(body).await { Ok(()) } else { Err(InvalidMessage::Digest) }
    }

    /// Has the seal of the answer take in its whole body too. Bodies of which this is not said are held against the
    /// digest of the blob by whoever asked.
    pub async fn take_in(&self, body: &Bytes, headers: &mut HeaderMap) {
        if self.sealed.is_some() {
            headers.insert(&fields::DIGEST, value(digest_of(body).await.to_string()));
        }
    }

    /// Seals an answer to which nothing else will be added.
    pub fn seal<T>(&self, answer: &mut Response<T>) {
        if let Some((secret, nonce)) = &self.sealed {
            secret.seal_answer(*nonce, answer);
        }
    }
}

impl Refusal {
    /// The head of the answer, and what it is sealed with. The text of the error is its body.
    #[must_use]
    pub fn into_head(self) -> (Response<()>, Pass) {
        let mut head = Response::new(());
        let (status, pass) = match self {
            Self::Elsewhere | Self::WithoutTls => (StatusCode::FORBIDDEN, Pass::default()),
            Self::Seal => (StatusCode::UNAUTHORIZED, Pass::default()),
            Self::Time(pass, now) => {
                head.headers_mut().insert(&fields::CLOCK, value(now));
                (StatusCode::UNAUTHORIZED, pass)
            }
            Self::Again(pass) => (StatusCode::UNAUTHORIZED, pass),
            Self::TooMany(pass) => {
                let after_ms = u64::try_from(TOO_MANY.as_millis()).unwrap_or(u64::MAX);
                head.headers_mut().insert(&fields::AFTER, after_ms.into());
                (StatusCode::TOO_MANY_REQUESTS, pass)
            }
            Self::Message(_) => (StatusCode::BAD_REQUEST, Pass::default()),
        };
        *head.status_mut() = status;
        (head, pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::wire::clock::RemoteClock, runtime::Secret};

    const NEAR: (SocketAddr, Carrier) = (address([127, 0, 0, 1]), Carrier::Plain);

    const fn address([a, b, c, d]: [u8; 4]) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d)), 1)
    }

    fn secret() -> SharedSecret {
        SharedSecret::new(&Secret::new("as many bytes as it takes".to_owned())).unwrap()
    }

    /// A request that says what the time is.
    fn request(time: Option<Reading>) -> Parts {
        let mut head = http::Request::get("/v1/hello").body(()).unwrap().into_parts().0;
        head.headers.insert(&fields::PROTOCOL, value(fields::VERSION));
        head.headers.insert(&fields::NONCE, value(Nonce::draw().to_string()));
        if let Some(time) = time {
            head.headers.insert(&fields::CLOCK, value(time.to_string()));
        }
        secret().seal_request(("GET", "/v1/hello"), &mut head.headers);
        head
    }

    /// What a node says the time is.
    fn time_told(guard: &Guard) -> Reading {
        let refusal = guard.admit(NEAR, &request(None)).unwrap_err();
        let (head, _) = refusal.into_head();
        assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
        Reading::parse(head.headers()[&fields::CLOCK].to_str().unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_good_for_half_a_minute_and_once() {
        let guard = Guard::new(&Trust::Secret(secret()));
        let time = RemoteClock::showing(time_told(&guard));
        let pass = |head: &Parts| guard.admit(NEAR, head);
        for later in [0, 60, 100_000] {
            tokio::time::advance(Duration::from_secs(later)).await;
            let (now, soon) = (request(Some(time.now())), request(Some(time.now())));
            assert!(pass(&now).is_ok());
            tokio::time::advance(Duration::from_secs(29)).await;
            assert!(pass(&soon).is_ok());
            assert!(matches!(pass(&now), Err(Refusal::Again(_))));
            tokio::time::advance(Duration::from_millis(1_001)).await;
            assert!(matches!(pass(&now), Err(Refusal::Time(..))));
            assert!(matches!(pass(&request(Some(now_of(&now)))), Err(Refusal::Time(..))));
        }
    }

    fn now_of(head: &Parts) -> Reading {
        Reading::parse(head.headers[&fields::CLOCK].to_str().unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_from_the_future_or_for_another_start_is_refused() {
        let guard = Guard::new(&Trust::Secret(secret()));
        let time = time_told(&guard);
        let other = time_told(&Guard::new(&Trust::Secret(secret())));
        let ahead = |ms| Reading { ms: time.ms.wrapping_add(ms), ..time };
        assert!(guard.admit(NEAR, &request(Some(ahead(1_000)))).is_ok());
        for wrong in [ahead(1_001), ahead(i64::MAX.cast_unsigned()), ahead(1 << 63), other] {
            let refusal = guard.admit(NEAR, &request(Some(wrong))).unwrap_err();
            assert!(matches!(refusal, Refusal::Time(..)), "{wrong}: {refusal}");
        }
    }

    #[test]
    fn without_any_proof_only_the_same_machine_is_let_in() {
        let guard = Guard::new(&Trust::Loopback);
        let mapped = "[::ffff:127.0.0.1]:1".parse().unwrap();
        for near in [NEAR.0, mapped, "[::1]:1".parse().unwrap()] {
            assert!(guard.admit((near, Carrier::Plain), &request(None)).is_ok(), "{near}");
        }
        for far in [address([10, 0, 0, 1]), "[fd00::1]:1".parse().unwrap()] {
            let refusal = guard.admit((far, Carrier::Tls), &request(None)).unwrap_err();
            assert!(matches!(refusal, Refusal::Elsewhere), "{far}");
        }
    }
}
