//! `/v2/<name>/manifests/<reference>`

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::{
    Api,
    blob::{CONTENT_DIGEST, header_text, identify, is_fresh, not_modified},
    body::{self, Body},
    dispatch::{Answer, empty_response},
    error::Error,
    request::Call,
};
use crate::{
    oci::{MediaType, Reference, RepositoryName, Tag},
    registry::{Freshness, ServedManifest, StoredManifest},
    runtime::BodyError,
};

/// Tags that one request may name besides the one in its path; the specification asks for ten at least.
const TAGS_MAX: usize = 64;

static SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
static TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Sends the manifest as it was pushed, whatever `Accept` says: the client asked for this one, there is no
/// other form of it, and a digest allows none.
pub(super) async fn get(
    api: &Api,
    name: RepositoryName,
    (reference, call): (&Reference, &Call),
) -> Answer {
    let ServedManifest { stored, freshness } = call.place(api, &name)?.manifest(reference).await?;
    let digest = match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(_) => stored.digest,
    };
    if is_fresh(&call.headers, &digest) {
        let mut response = not_modified(&digest);
        warn_if_stale(response.headers_mut(), freshness);
        return Ok(response);
    }
    let mut response = Response::new(Body::full(stored.bytes.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type(&stored));
    headers.insert(header::CONTENT_LENGTH, stored.bytes.len().into());
    identify(headers, &digest);
    warn_if_stale(headers, freshness);
    Ok(response)
}

/// Says that the answer is not fresh (RFC 7234, section 5.5.1; withdrawn in RFC 9111, and still what people
/// and tools look for).
pub(super) fn warn_if_stale(headers: &mut HeaderMap, freshness: Freshness) {
    match freshness {
        Freshness::Current => {}
        Freshness::Stale => {
            let warning = HeaderValue::from_static("110 - \"Response is Stale\"");
            headers.insert(header::WARNING, warning);
        }
    }
}

fn media_type(stored: &StoredManifest) -> HeaderValue {
    // Each is looked at when this is compiled, instead of for every answer.
    const OCI_MANIFEST: HeaderValue = HeaderValue::from_static(MediaType::OciManifest.name());
    const OCI_INDEX: HeaderValue = HeaderValue::from_static(MediaType::OciIndex.name());
    const DOCKER_MANIFEST: HeaderValue = HeaderValue::from_static(MediaType::DockerManifest.name());
    const DOCKER_LIST: HeaderValue = HeaderValue::from_static(MediaType::DockerManifestList.name());
    match stored.manifest.media_type() {
        MediaType::OciManifest => OCI_MANIFEST,
        MediaType::OciIndex => OCI_INDEX,
        MediaType::DockerManifest => DOCKER_MANIFEST,
        MediaType::DockerManifestList => DOCKER_LIST,
    }
}

pub(super) async fn put(
    api: &Api,
    name: RepositoryName,
    reference: Reference,
    call: Call,
) -> Answer {
    let repository = call.hosted(api, &name)?;
    let tags = call.parameters("tag").map(str::parse).collect::<Result<Vec<Tag>, _>>()?;
    if tags.len() > TAGS_MAX {
        return Err(Error::TooManyTags { limit: TAGS_MAX });
    }
    let limit = api.registry.config().manifest_max;
    if call.content_length().is_some_and(|length| length > limit.0) {
        return Err(Error::ManifestTooLarge { limit });
    }
    let content_type = call.header(&header::CONTENT_TYPE).unwrap_or_default().to_owned();
    let locations = call.locations.clone();
    let bytes = match body::collect(call.into_body(), limit.0).await {
        Err(BodyError::TooLarge { .. }) => return Err(Error::ManifestTooLarge { limit }),
        other => other.map_err(Error::Body)?,
    };
    let accepted_tags = tags.clone();
    let put =
        async move { repository.put_manifest(&reference, &tags, (&content_type, bytes)).await };
    let stored = api.tasks.detached("put manifest", put).await??;
    let mut response = empty_response(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, locations.manifest(&name, &stored.digest));
    headers.insert(&CONTENT_DIGEST, header_text(stored.digest.to_string()));
    acknowledge(headers, &stored, &accepted_tags);
    Ok(response)
}

/// Says that the subject and each tag parameter were understood.
fn acknowledge(headers: &mut HeaderMap, stored: &StoredManifest, tags: &[Tag]) {
    if let Some(subject) = stored.manifest.subject() {
        headers.insert(&SUBJECT, header_text(subject.to_string()));
    }
    for tag in tags {
        headers.append(&TAG, header_text(tag.to_string()));
    }
}

pub(super) async fn delete(
    api: &Api,
    name: RepositoryName,
    (reference, call): (Reference, &Call),
) -> Answer {
    let repository = call.hosted(api, &name)?;
    let delete = async move { repository.delete_manifest(&reference).await };
    let deleted = api.tasks.detached("delete manifest", delete).await?;
    deleted.map_err(|error| Error::deleting(error, "GET, HEAD, PUT"))?;
    Ok(empty_response(StatusCode::ACCEPTED))
}
