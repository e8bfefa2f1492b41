//! `/v2/<name>/blobs/<digest>`

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::{
    Api,
    body::Body,
    dispatch::{Answer, empty_response},
    error::Error,
    range,
    request::Call,
};
use crate::oci::{Algorithm, Digest, RepositoryName};

/// Header with the digest of what is sent.
pub(super) static CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Bytes of a digest never change.
const CACHE_FOR_EVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

/// Room for an entity tag, in bytes: most digests, in quotation marks.
const TAG_BYTES: usize = 2 + "sha256:".len() + 2 * Algorithm::Sha256.hash_bytes();

pub(super) async fn head(
    api: &Api,
    name: RepositoryName,
    (digest, call): (&Digest, &Call),
) -> Answer {
    let size_bytes = call.place(api, &name)?.stat_blob(digest).await?;
    if is_fresh(&call.headers, digest) {
        return Ok(not_modified(digest));
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    describe(headers, digest);
    headers.insert(header::CONTENT_LENGTH, size_bytes.into());
    Ok(response)
}

pub(super) async fn get(
    api: &Api,
    name: RepositoryName,
    (digest, call): (&Digest, &Call),
) -> Answer {
    let place = call.place(api, &name)?;
    if is_fresh(&call.headers, digest) {
        place.stat_blob(digest).await?;
        return Ok(not_modified(digest));
    }
    let wanted = range::wanted(&call.headers, digest);
    let mut response = range::respond(&place, digest, (wanted, call.lane.as_ref())).await?;
    describe(response.headers_mut(), digest);
    Ok(response)
}

pub(super) async fn delete(
    api: &Api,
    name: RepositoryName,
    (digest, call): (Digest, &Call),
) -> Answer {
    let repository = call.hosted(api, &name)?;
    let delete = async move { repository.delete_blob(&digest).await };
    let deleted = api.tasks.detached("delete blob", delete).await?;
    deleted.map_err(|error| Error::deleting(error, "GET, HEAD"))?;
    Ok(empty_response(StatusCode::ACCEPTED))
}

/// Headers that every answer about a blob carries.
fn describe(headers: &mut HeaderMap, digest: &Digest) {
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.entry(header::CONTENT_TYPE).or_insert(octets);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, CACHE_FOR_EVER);
    identify(headers, digest);
}

/// The digest, as itself and as the entity tag.
pub(super) fn identify(headers: &mut HeaderMap, digest: &Digest) {
    let mut tag = String::with_capacity(TAG_BYTES);
    write!(tag, "\"{digest}\"").expect("writing to a string does not fail");
    let tag = Bytes::from(tag);
    let value = |text| HeaderValue::from_maybe_shared(text).expect("digests are header values");
    headers.insert(&CONTENT_DIGEST, value(tag.slice(1..tag.len() - 1)));
    headers.insert(header::ETAG, value(tag));
}

pub(super) fn header_text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digests and numbers are header values")
}

/// Whether the client says it has these bytes already (RFC 9110, section 13.1.2).
pub(super) fn is_fresh(headers: &HeaderMap, digest: &Digest) -> bool {
    let values =
        headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || digest_in(tag).is_some_and(|named| named == *digest))
}

/// The digest that an entity tag of ours consists of.
fn digest_in(tag: &str) -> Option<Digest> {
    let quoted = tag.strip_prefix("W/").unwrap_or(tag);
    quoted.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

pub(super) fn not_modified(digest: &Digest) -> Response<Body> {
    let mut response = empty_response(StatusCode::NOT_MODIFIED);
    identify(response.headers_mut(), digest);
    response
}
