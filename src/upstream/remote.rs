//! One upstream, as the rest of the program sees it: manifests and blobs.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    Error, RemoteBlob,
    body::Meter,
    config::Policy,
    exchange::{Answer, Call, Exchange},
    metrics::Kind,
    pattern::Repositories,
    several::Several,
};
use crate::oci::{Digest, Reference, RepositoryName};

/// What manifests may be, on one line: several lines confuse registries. No `*/*`, because a registry may
/// take that for a wish for schema 1, whose digests cannot be checked; and a manifest of another type
/// could not be stored here.
const MANIFEST_TYPES: &str = "application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";

/// The header that names what a manifest's bytes hash to.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Another registry.
///
/// Repositories are named as the upstream calls them: see [`Upstream::remote_name`]. Every method has a
/// limit on its time, may be dropped at any moment, and fails at once while the upstream wants to be left
/// alone. What comes is unverified.
pub struct Upstream {
    pub(super) name: Arc<str>,
    pub(super) policy: Policy,
    pub(super) repositories: Repositories,
    pub(super) default_namespace: Option<&'static str>,
    pub(super) exchange: Exchange,
    pub(super) meter: Arc<Meter>,
    pub(super) several: Several,
}

/// What the headers of a manifest tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// What its bytes are said to hash to.
    pub digest: Option<Digest>,
    /// How many bytes it is said to have.
    pub size_bytes: Option<u64>,
    /// Its media type.
    pub content_type: Option<String>,
}

/// A manifest, byte by byte as the upstream sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The bytes.
    pub bytes: Bytes,
    /// Its media type.
    pub content_type: Option<String>,
    /// What its bytes are said to hash to.
    pub digest: Option<Digest>,
}

impl Upstream {
    /// Its name: the first component of the names of its repositories here.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long what it says may be used.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the upstream calls the repository that is `name` to a person: `nginx` is `library/nginx` at
    /// Docker Hub.
    #[must_use]
    pub fn remote_name(&self, name: RepositoryName) -> RepositoryName {
        let Some(namespace) = self.default_namespace else { return name };
        if name.as_str().contains('/') {
            return name;
        }
        // It does not parse only if it becomes too long, and then nothing has that name.
        format!("{namespace}/{name}").parse().unwrap_or(name)
    }

    /// Whether the configuration lets the repository be mirrored.
    #[must_use]
    pub fn allows(&self, repository: &RepositoryName) -> bool {
        self.repositories.has(repository)
    }

    /// Whether it gave something in the `time` before now, and has not failed since.
    #[must_use]
    pub fn was_heard_within(&self, time: Duration) -> bool {
        self.exchange.heard.is_within(time)
    }

    /// Notes that it gave something a moment ago, to somebody else who says so.
    pub fn note_that_it_was_heard(&self) {
        self.exchange.heard.now();
    }

    /// How many connections one blob may have now.
    #[must_use]
    pub fn connections_for_a_blob(&self) -> usize {
        self.several.most()
    }

    /// Has [`Upstream::connections_for_a_blob`] say so for a while.
    pub fn note_that_one_is_enough(&self) {
        self.several.note_that_one_is_enough();
    }

    /// Whether at least half of the connections that blobs may have are free.
    #[must_use]
    pub fn has_connections_to_spare(&self) -> bool {
        self.exchange.turns.are_mostly_free()
    }

    /// Asks for a manifest's headers. At Docker Hub this does not count against the limit.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ManifestHead, Error> {
        let answer = self.manifest(repository, reference, Method::HEAD).await?;
        let headers = answer.response.headers();
        Ok(ManifestHead {
            digest: digest(headers),
            size_bytes: number(headers, header::CONTENT_LENGTH),
            content_type: content_type(headers),
        })
    }

    /// Fetches a manifest of at most `limit_bytes`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if it is longer, and the others.
    pub async fn fetch_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        limit_bytes: u64,
    ) -> Result<FetchedManifest, Error> {
        let answer = self.manifest(repository, reference, Method::GET).await?;
        self.check_encoding(answer.response.headers())?;
        if answer.response.status() != StatusCode::OK {
            return Err(self.protocol("it sends a part of a manifest"));
        }
        let headers = answer.response.headers();
        let (digest, content_type) = (digest(headers), content_type(headers));
        let bytes = self.meter.read(answer.response, limit_bytes).await?;
        Ok(FetchedManifest { bytes, content_type, digest })
    }

    /// Asks for a blob's length, which the upstream may not tell.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the upstream does not have it, and the others.
    pub async fn stat_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let answer = match self.blob(repository, digest, Method::HEAD, None).await {
            // Not the upstream says so, but whom it sent this side to: there is a blob, behind an address
            // that is signed for GET only.
            Err(Error::Status { status: 401 | 403, .. }) => return Ok(None),
            answer => answer?,
        };
        self.check_encoding(answer.response.headers())?;
        Ok(number(answer.response.headers(), header::CONTENT_LENGTH))
    }

    /// Opens a blob from byte `start` on. An upstream may begin with the first byte nevertheless, and
    /// [`RemoteBlob::start`] tells.
    ///
    /// # Errors
    /// [`Error`]; status 416 if the blob has no byte `start`.
    pub async fn open_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        start: u64,
    ) -> Result<RemoteBlob, Error> {
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let answer = self.blob(repository, digest, Method::GET, range).await?;
        let Answer { response, permits } = answer;
        self.check_encoding(response.headers())?;
        let (start, size_bytes) = match response.status() {
            StatusCode::PARTIAL_CONTENT => self.part(response.headers(), start)?,
            _ => (0, response.content_length()),
        };
        let expected_bytes = size_bytes.map(|size| size.saturating_sub(start));
        let stream = self.meter.stream(response, permits, expected_bytes);
        Ok(RemoteBlob { start, size_bytes, stream })
    }

    async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        method: Method,
    ) -> Result<Answer, Error> {
        let path = format!("manifests/{reference}");
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        self.ask(Call { kind: Kind::Manifest, method, repository, path: &path, headers }).await
    }

    async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        method: Method,
        range: Option<String>,
    ) -> Result<Answer, Error> {
        let path = format!("blobs/{digest}");
        let mut headers = HeaderMap::new();
        let range = range.and_then(|range| HeaderValue::from_str(&range).ok());
        headers.extend(range.map(|range| (header::RANGE, range)));
        self.ask(Call { kind: Kind::Blob, method, repository, path: &path, headers }).await
    }

    /// Asks, if the repository may be mirrored.
    pub(super) async fn ask(&self, mut call: Call<'_>) -> Result<Answer, Error> {
        if !self.allows(call.repository) {
            let (upstream, repository) = (Arc::clone(&self.name), call.repository.clone());
            return Err(Error::Refused { upstream, repository });
        }
        call.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        self.exchange.ask(&call).await
    }

    /// First byte and length of the whole, as a 206 tells them.
    fn part(&self, headers: &HeaderMap, start: u64) -> Result<(u64, Option<u64>), Error> {
        let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        match range.and_then(content_range) {
            Some((first, total)) if first == start => Ok((first, total)),
            Some(_) => Err(self.protocol("it sends another range than it was asked for")),
            None => Err(self.protocol("it does not tell which range it sends")),
        }
    }

    /// Bytes are asked for as they are, since their digest is of them as they are.
    fn check_encoding(&self, headers: &HeaderMap) -> Result<(), Error> {
        let plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if headers.get_all(header::CONTENT_ENCODING).iter().all(plain) {
            Ok(())
        } else {
            Err(self.protocol("it sends an encoded body"))
        }
    }

    pub(super) fn protocol(&self, what: &'static str) -> Error {
        Error::Protocol { upstream: Arc::clone(&self.name), what }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.name)
            .field("exchange", &self.exchange)
            .finish_non_exhaustive()
    }
}

fn digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_owned())
}

fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Reads `bytes 5-9/10`, or `bytes 5-9/*`, of `Content-Range`: the first byte and the length of the whole.
#[must_use]
pub fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse::<u64>().ok()?),
    };
    let is_within = first <= last && total.is_none_or(|total| last < total);
    is_within.then_some((first, total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_content_range_tells_the_first_byte_and_the_whole() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, None)));
        for bad in ["", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "bytes 5-/10", "items 1-2/3"]
        {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_parsed_without_panic(value in "bytes [0-9*/-]{0,20}|\\PC{0,30}") {
            let _ = content_range(&value);
        }
    }
}
