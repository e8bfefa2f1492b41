//! Error codes and the error body of the distribution-spec ("Error Codes").

use serde::Serialize;

/// A code of the specification, and the few that docker-registry added beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "each name says what the specification's table says")]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    /// Of docker-registry: a chunk or range that cannot be satisfied.
    RangeInvalid,
    /// Of docker-registry: a malformed tag.
    TagInvalid,
    /// Of docker-registry: a bad `n`.
    PaginationNumberInvalid,
    /// Of docker-registry: the service cannot answer now.
    Unavailable,
    /// Of docker-registry: anything else.
    Unknown,
}

/// The JSON body of an error answer. One error each: the first that was found.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    errors: [ErrorEntry; 1],
}

#[derive(Clone, Debug, Serialize)]
struct ErrorEntry {
    code: ErrorCode,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<serde_json::Value>,
}

impl ErrorBody {
    /// A body with one error. `message` is written for the person at the client.
    #[must_use]
    pub fn new(code: ErrorCode, message: String, detail: Option<serde_json::Value>) -> Self {
        Self { errors: [ErrorEntry { code, message, detail }] }
    }

    /// The body as JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an error body is strings and JSON values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_the_specification_writes_them() {
        let body = ErrorBody::new(ErrorCode::TooManyRequests, "later".to_owned(), None);
        assert_eq!(body.to_json(), r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"later"}]}"#);
        let json = serde_json::to_string(&ErrorCode::ManifestBlobUnknown).unwrap();
        assert_eq!(json, r#""MANIFEST_BLOB_UNKNOWN""#);
    }
}
