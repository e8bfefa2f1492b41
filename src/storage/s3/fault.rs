//! What a failed request means.

use std::error::Error as StdError;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::storage::{Error, Fault, Key};

/// What became of a request that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// S3 answered with an error.
    #[error("S3 answered {status} {code}: {message} (request {request_id})")]
    Answer {
        /// HTTP status.
        status: u16,
        /// Its name for the error, which decides more than the status.
        code: String,
        /// Its words.
        message: String,
        /// Its name for the request.
        request_id: String,
    },
    /// There was no answer, or one that is no S3.
    #[error("no answer from S3: {reason}")]
    NoAnswer {
        /// The chain of reasons in one line.
        reason: String,
    },
}

/// The error of `operation` on `key` that `error` amounts to.
pub(super) fn failed<E>(operation: &'static str, key: &Key, error: &SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let failure = Failure::of(error);
    match failure.meaning() {
        Meaning::Missing => Error::NotFound { key: key.clone() },
        Meaning::Fault(fault) => Error::failed(operation, key, fault, failure),
    }
}

/// The error that an answer in parts names for one of its keys.
pub(super) fn refused(operation: &'static str, key: &Key, code: &str, message: &str) -> Error {
    let failure = Failure::Answer {
        status: 200,
        code: code.to_owned(),
        message: message.to_owned(),
        request_id: String::new(),
    };
    match failure.meaning() {
        Meaning::Missing => Error::NotFound { key: key.clone() },
        Meaning::Fault(fault) => Error::failed(operation, key, fault, failure),
    }
}

enum Meaning {
    Missing,
    Fault(Fault),
}

impl Failure {
    /// Reads an error of the SDK. Neither request nor headers are kept: they hold signatures.
    pub(super) fn of<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match (error, error.raw_response()) {
            (SdkError::ServiceError(service), Some(response)) => {
                let meta = service.err().meta();
                Self::Answer {
                    status: response.status().as_u16(),
                    code: meta.code().unwrap_or_default().to_owned(),
                    message: meta.message().map_or_else(|| chain(error), str::to_owned),
                    request_id: header(response, "x-amz-request-id").unwrap_or_default(),
                }
            }
            _ => Self::NoAnswer { reason: chain(error) },
        }
    }

    /// The code, or nothing where S3 did not answer.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Answer { code, .. } => code,
            Self::NoAnswer { .. } => "",
        }
    }

    /// The status, or nothing where S3 did not answer.
    pub(super) const fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            Self::NoAnswer { .. } => None,
        }
    }

    fn meaning(&self) -> Meaning {
        let Self::Answer { status, code, .. } = self else {
            return Meaning::Fault(Fault::Unavailable);
        };
        match (code.as_str(), *status) {
            ("NoSuchKey" | "NotFound", _) | ("", 404) => Meaning::Missing,
            (code, status) => Meaning::Fault(fault(code, status)),
        }
    }
}

/// Codes come before statuses: a full bucket is 403 in some places and 507 in others.
fn fault(code: &str, status: u16) -> Fault {
    match code {
        "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "InsufficientStorage"
        | "QuotaExceeded"
        | "StorageFull" => Fault::Full,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "BandwidthLimitExceeded" => Fault::Busy,
        "AccessDenied"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "RequestTimeTooSkewed" => Fault::Denied,
        "RequestTimeout" | "IncompleteBody" | "InternalError" | "OperationAborted" => {
            Fault::Unavailable
        }
        "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" => Fault::Corrupt,
        _ => match status {
            507 => Fault::Full,
            429 | 503 => Fault::Busy,
            401 | 403 => Fault::Denied,
            408 | 500 | 502 | 504 => Fault::Unavailable,
            _ => Fault::Other,
        },
    }
}

/// One header of an answer.
pub(super) fn header(response: &HttpResponse, name: &str) -> Option<String> {
    response.headers().get(name).map(str::to_owned)
}

/// An error with its causes in one line. A cause that repeats in the one above is left out.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide_before_statuses() {
        let cases = [
            ("QuotaExceeded", 403, Fault::Full),
            ("XMinioStorageFull", 507, Fault::Full),
            ("", 507, Fault::Full),
            ("SlowDown", 503, Fault::Busy),
            ("", 429, Fault::Busy),
            ("AccessDenied", 403, Fault::Denied),
            ("SignatureDoesNotMatch", 403, Fault::Denied),
            ("InternalError", 500, Fault::Unavailable),
            ("", 502, Fault::Unavailable),
            ("RequestTimeout", 400, Fault::Unavailable),
            ("NoSuchBucket", 404, Fault::Other),
            ("NoSuchUpload", 404, Fault::Other),
            ("NotImplemented", 501, Fault::Other),
        ];
        for (code, status, expected) in cases {
            assert_eq!(fault(code, status), expected, "{code} {status}");
        }
    }
}
