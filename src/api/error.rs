//! The one map from failures to answers.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};

use super::{body::Body, route::InvalidRoute};
use crate::{
    content,
    oci::{
        ErrorBody, ErrorCode, InvalidChunkRange, InvalidDigest, InvalidName, InvalidReference,
        InvalidTag,
    },
    registry,
    runtime::{Abandoned, BodyError, ByteSize},
    storage::{self, Fault},
    upstream,
};

/// After how long a client should try again while there is trouble that may pass soon: the storage does not
/// answer, buffers or connections are in use.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The same for an upstream that wants fewer requests and does not say until when. It is then left alone for as
/// long ([`upstream`]); who comes earlier hears how much is left of that.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(30);

/// A request that is answered with an error.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Route(#[from] InvalidRoute),
    #[error("this resource can only be used with {allowed}")]
    Method { allowed: &'static str },
    #[error("deleting is switched off in this registry; {allowed} are possible")]
    DeleteDisabled { allowed: &'static str },
    #[error("{name}={value:?} is not accepted: {accepted} is expected")]
    Query { name: &'static str, value: String, accepted: &'static str },
    #[error("the query must name the digest of the blob: ?digest=sha256:…")]
    DigestMissing,
    #[error("the {what} in the request is malformed: {source}")]
    Digest { what: &'static str, source: InvalidDigest },
    #[error(transparent)]
    Tag(#[from] InvalidTag),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    ChunkRange(#[from] InvalidChunkRange),
    #[error("at most {limit} tags can be named in one request")]
    TooManyTags { limit: usize },
    #[error("a manifest has at most {limit} here; this one is longer")]
    ManifestTooLarge { limit: ByteSize },
    #[error(transparent)]
    Body(BodyError),
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

/// How a failure is answered.
struct Answer {
    status: StatusCode,
    code: ErrorCode,
}

const fn answer(status: StatusCode, code: ErrorCode) -> Answer {
    Answer { status, code }
}

impl Error {
    /// What a deletion ended in, where `allowed` are the methods that are left if deleting is switched off.
    pub(super) fn deleting(error: registry::Error, allowed: &'static str) -> Self {
        match error {
            registry::Error::DeleteDisabled => Self::DeleteDisabled { allowed },
            other => Self::Registry(other),
        }
    }

    fn answer(&self) -> Answer {
        match self {
            Self::Route(error) => route_answer(error),
            Self::Method { .. } | Self::DeleteDisabled { .. } => {
                answer(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported)
            }
            Self::Query { .. } => {
                answer(StatusCode::BAD_REQUEST, ErrorCode::PaginationNumberInvalid)
            }
            Self::DigestMissing | Self::Digest { .. } => {
                answer(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
            }
            Self::Tag(_) => answer(StatusCode::BAD_REQUEST, ErrorCode::TagInvalid),
            Self::Name(_) => answer(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            Self::ChunkRange(_) => answer(StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
            Self::TooManyTags { .. } => answer(StatusCode::URI_TOO_LONG, ErrorCode::TagInvalid),
            Self::ManifestTooLarge { .. } => {
                answer(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::ManifestInvalid)
            }
            Self::Body(error) => body_answer(error),
            Self::Abandoned(Abandoned) => unexpected(),
            Self::Registry(error) => registry_answer(error),
        }
    }

    /// The answer to send. Failures of the server are logged here, and only here; their text stays inside.
    pub(super) fn into_response(self) -> Response<Body> {
        let Answer { status, code } = self.answer();
        let message = match (status.is_server_error(), self.upstream()) {
            (true, None) => {
                tracing::error!(error = %Chain(&self), status = status.as_u16(), "a request failed");
                public_message(status).to_owned()
            }
            // Not our fault, and for the client to know.
            (true, Some(upstream)) => {
                tracing::warn!(error = %Chain(&self), status = status.as_u16(), "a request failed");
                upstream.to_string()
            }
            (false, _) => self.to_string(),
        };
        let body = ErrorBody::new(code, message, self.detail()).to_json();
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.retry_after(status).map(|wait| (header::RETRY_AFTER, seconds(wait))));
        match self {
            Self::Method { allowed } | Self::DeleteDisabled { allowed } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Self::Registry(registry::Error::RangeOutside { size_bytes, .. }) => {
                let total = HeaderValue::try_from(format!("bytes */{size_bytes}"));
                headers.insert(header::CONTENT_RANGE, total.expect("digits are a header value"));
            }
            _ => {}
        }
        response
    }

    /// When the client should come back, where `status` says that it should.
    fn retry_after(&self, status: StatusCode) -> Option<Duration> {
        match (status, self.upstream()) {
            (_, Some(upstream::Error::RateLimited { retry_after, .. })) => {
                Some(retry_after.unwrap_or(RETRY_AFTER_LIMIT))
            }
            (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _) => {
                Some(RETRY_AFTER)
            }
            (_, _) => None,
        }
    }

    /// What another registry did to cause this, if one did.
    fn upstream(&self) -> Option<&upstream::Error> {
        let Self::Registry(error) = self else { return None };
        match original(error) {
            registry::Error::Upstream(error) => Some(error),
            registry::Error::Fetch(error) => match original_fetch(error) {
                content::Error::Upstream(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    fn detail(&self) -> Option<serde_json::Value> {
        let Self::Registry(registry::Error::ManifestBlobUnknown { digests }) = self else {
            return None;
        };
        Some(
            digests
                .iter()
                .map(|digest| serde_json::json!({ "digest": digest.to_string() }))
                .collect(),
        )
    }
}

/// A time in whole seconds, at least one; rounded up, because who comes a moment too early comes in vain.
pub(super) fn seconds(time: Duration) -> HeaderValue {
    let begun = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(begun).max(1).into()
}

fn unexpected() -> Answer {
    answer(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown)
}

fn route_answer(error: &InvalidRoute) -> Answer {
    match error {
        InvalidRoute::Unknown => answer(StatusCode::NOT_FOUND, ErrorCode::Unsupported),
        InvalidRoute::Name(_) => answer(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
        InvalidRoute::Reference(InvalidReference::Tag(_)) => {
            answer(StatusCode::BAD_REQUEST, ErrorCode::TagInvalid)
        }
        InvalidRoute::Reference(InvalidReference::Digest(_)) | InvalidRoute::Digest(_) => {
            answer(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
        }
        InvalidRoute::Upload(_) => answer(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
    }
}

fn body_answer(error: &BodyError) -> Answer {
    match error {
        // Nobody is left to read it; this is for the log.
        BodyError::Disconnected(_) => answer(StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
        BodyError::TakenOver => answer(StatusCode::CONFLICT, ErrorCode::BlobUploadInvalid),
        BodyError::Stalled => answer(StatusCode::REQUEST_TIMEOUT, ErrorCode::BlobUploadInvalid),
        BodyError::TooLarge { .. } => answer(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
    }
}

/// The error itself, where several were waiting for it.
fn original(error: &registry::Error) -> &registry::Error {
    match error {
        registry::Error::Shared(inner) => original(inner),
        other => other,
    }
}

fn original_fetch(error: &content::Error) -> &content::Error {
    match error {
        content::Error::Fill(inner) => original_fetch(inner),
        other => other,
    }
}

fn registry_answer(error: &registry::Error) -> Answer {
    use registry::Error as E;
    match error {
        E::NamespaceUnknown { .. } => answer(StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        E::ReadOnlyMirror { .. } => answer(StatusCode::FORBIDDEN, ErrorCode::Denied),
        E::Upstream(error) => upstream_answer(error),
        E::Fetch(error) => fetch_answer(error),
        E::Shared(error) => registry_answer(error),
        E::NameUnknown { .. } => answer(StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        E::BlobUnknown { .. } => answer(StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
        E::RangeOutside { .. } => {
            answer(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid)
        }
        E::ManifestUnknown { .. } => answer(StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
        E::ManifestInvalid(_) => answer(StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid),
        E::ManifestBroken { .. } => unexpected(),
        E::ManifestBlobUnknown { .. } => {
            answer(StatusCode::BAD_REQUEST, ErrorCode::ManifestBlobUnknown)
        }
        E::BlobTooLarge { .. } => answer(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
        E::UploadUnknown => answer(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
        E::UploadOffset { .. } => {
            answer(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid)
        }
        E::UploadLength { .. } => answer(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),
        E::DigestMismatch { .. } => answer(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
        E::DeleteDisabled => answer(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
        E::Body(error) => body_answer(error),
        E::Abandoned(Abandoned) => unexpected(),
        E::Storage(error) => storage_answer(error),
    }
}

/// A status that says what happened, and lets every client go on to the registry itself.
fn upstream_answer(error: &upstream::Error) -> Answer {
    use upstream::Error as E;
    match error {
        E::NotFound { .. } | E::Refused { .. } => {
            answer(StatusCode::NOT_FOUND, ErrorCode::NameUnknown)
        }
        E::Denied { .. } => answer(StatusCode::FORBIDDEN, ErrorCode::Denied),
        E::RateLimited { .. } => answer(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests),
        E::Busy { .. } => answer(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
        E::Timeout { .. } | E::Stalled { .. } | E::Slow { .. } => {
            answer(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable)
        }
        E::Status { .. }
        | E::Interrupted { .. }
        | E::Connect { .. }
        | E::Tls { .. }
        | E::Protocol { .. }
        | E::TooLarge { .. }
        | E::Realm { .. }
        | E::Credentials { .. } => answer(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable),
        E::Abandoned { .. } => unexpected(),
    }
}

fn fetch_answer(error: &content::Error) -> Answer {
    use content::Error as E;
    match error {
        E::Unknown { .. } => answer(StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
        E::RangeOutside { .. } => {
            answer(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid)
        }
        E::Mismatch { .. } | E::LengthMismatch { .. } | E::Truncated { .. } => {
            answer(StatusCode::BAD_GATEWAY, ErrorCode::DigestInvalid)
        }
        E::Upstream(error) => upstream_answer(error),
        E::Fill(inner) => fetch_answer(inner),
        E::Body(error) => body_answer(error),
        E::Abandoned(Abandoned) => unexpected(),
        E::Storage(error) => storage_answer(error),
    }
}

fn storage_answer(error: &storage::Error) -> Answer {
    match error {
        // Every miss that a client may see has a meaning of its own above; this one is ours.
        storage::Error::NotFound { .. } | storage::Error::RangeOutside { .. } => unexpected(),
        storage::Error::Failed { fault, .. } => match fault {
            Fault::Full => answer(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Unavailable),
            Fault::Busy | Fault::Unavailable | Fault::Denied | Fault::Other => {
                answer(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable)
            }
            Fault::Corrupt => unexpected(),
        },
    }
}

fn public_message(status: StatusCode) -> &'static str {
    match status {
        StatusCode::INSUFFICIENT_STORAGE => "the registry's storage has no room left",
        StatusCode::SERVICE_UNAVAILABLE => {
            "the registry's storage does not answer; try again later"
        }
        StatusCode::BAD_GATEWAY => {
            "the other registry sends something else than it should; its own address may do better"
        }
        _ => "the registry failed unexpectedly; its log says why",
    }
}

/// Shows an error with everything that caused it.
pub(super) struct Chain<'e>(pub(super) &'e (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{runtime::BudgetExhausted, storage::Key};

    fn storage_error(fault: Fault) -> storage::Error {
        let key: Key = "a".parse().unwrap();
        storage::Error::failed("read", &key, fault, BudgetExhausted)
    }

    /// The error as it comes to those who ask for a manifest, to those who wait for another's question, and to
    /// those who wait for another's fill.
    fn on_every_way(error: &upstream::Error) -> [registry::Error; 3] {
        let fill = content::Error::Fill(Arc::new(content::Error::Upstream(error.clone())));
        let shared = registry::Error::Shared(Arc::new(registry::Error::Upstream(error.clone())));
        [registry::Error::Upstream(error.clone()), shared, registry::Error::Fetch(Arc::new(fill))]
    }

    fn answered(error: registry::Error) -> (u16, Option<String>) {
        let response = Error::Registry(error).into_response();
        let after = response.headers().get(header::RETRY_AFTER);
        (response.status().as_u16(), after.map(|after| after.to_str().unwrap().to_owned()))
    }

    #[test]
    fn an_upstream_that_may_give_more_later_has_its_time_told() {
        let upstream: Arc<str> = "other.example".into();
        let limited = |retry_after| upstream::Error::RateLimited {
            upstream: Arc::clone(&upstream),
            retry_after,
        };
        for (error, status, after) in [
            (upstream::Error::Busy { upstream: Arc::clone(&upstream) }, 503, Some("2")),
            (limited(None), 429, Some("30")),
            (limited(Some(Duration::ZERO)), 429, Some("1")),
            (limited(Some(Duration::from_secs(120))), 429, Some("120")),
            (limited(Some(Duration::from_millis(6_001))), 429, Some("7")),
            (limited(Some(Duration::MAX)), 429, Some("18446744073709551615")),
            (upstream::Error::NotFound { upstream: Arc::clone(&upstream) }, 404, None),
        ] {
            for way in on_every_way(&error) {
                assert_eq!(answered(way), (status, after.map(str::to_owned)), "{error:?}");
            }
        }
    }

    #[test]
    fn a_storage_that_may_do_better_later_has_a_time_told() {
        for (fault, status) in [
            (Fault::Busy, 503),
            (Fault::Unavailable, 503),
            (Fault::Denied, 503),
            (Fault::Other, 503),
            (Fault::Full, 507),
            (Fault::Corrupt, 500),
        ] {
            let after = (status == 503).then(|| "2".to_owned());
            let ways = [
                registry::Error::Storage(storage_error(fault)),
                registry::Error::Fetch(Arc::new(content::Error::Storage(storage_error(fault)))),
            ];
            for way in ways {
                assert_eq!(answered(way), (status, after.clone()), "{fault:?}");
            }
        }
    }
}
