//! `/v2/<name>/blobs/uploads/`: pushing blobs.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{
    Api,
    blob::{CONTENT_DIGEST, header_text},
    body::Body,
    dispatch::{Answer, empty_response},
    error::Error,
    location::Locations,
    request::Call,
};
use crate::{
    oci::{Algorithm, ChunkRange, Digest, InvalidDigest, RepositoryName, UploadPosition},
    registry::{self, Chunk, Repository, UploadStatus},
};

static UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `POST`: begins an upload, or ends it at once by a mount or by the whole blob in the body.
pub(super) async fn begin(api: &Api, name: RepositoryName, call: Call) -> Answer {
    let repository = call.hosted(api, &name)?;
    if let Some(digest) = call.digest_parameter("mount")? {
        if mount(api, &repository, &digest, call.parameter("from")).await? {
            return Ok(created(&call.locations, &repository, &digest));
        }
        return start(&repository, &call).await;
    }
    match call.digest_parameter("digest")? {
        None => start(&repository, &call).await,
        Some(digest) => {
            let locations = call.locations.clone();
            let (target, chunk) = (repository.clone(), chunk(call)?);
            let put = async move { target.put_blob(&digest, chunk).await };
            api.tasks.detached("put blob", put).await??;
            Ok(created(&locations, &repository, &digest))
        }
    }
}

async fn mount(
    api: &Api,
    repository: &Repository,
    digest: &Digest,
    from: Option<&str>,
) -> Result<bool, Error> {
    let place = |name| Ok::<_, Error>(api.registry.place(None, &name)?.kept());
    let source = from.map(|name| name.parse().map_err(Error::from).and_then(place)).transpose()?;
    let (repository, digest) = (repository.clone(), *digest);
    let mount = async move {
        match source {
            Some(source) => repository.mount_blob(&digest, &source).await,
            // Without credentials everything here may be read by everybody, so every repository may be
            // the source.
            None => repository.mount_blob_from_anywhere(&digest).await,
        }
    };
    Ok(api.tasks.detached("mount blob", mount).await??)
}

async fn start(repository: &Repository, call: &Call) -> Answer {
    let parse = |name: &str| {
        name.parse()
            .map_err(|source: InvalidDigest| Error::Digest { what: "digest-algorithm", source })
    };
    let algorithm: Algorithm =
        call.parameter("digest-algorithm").map(parse).transpose()?.unwrap_or_default();
    let status = repository.start_upload(algorithm).await;
    Ok(standing(StatusCode::ACCEPTED, &call.locations, (repository, status)))
}

/// `GET`: where an upload stands.
pub(super) async fn status(
    api: &Api,
    name: RepositoryName,
    (position, call): (UploadPosition, &Call),
) -> Answer {
    let repository = call.hosted(api, &name)?;
    let status = repository.upload_status(position).await?;
    Ok(standing(StatusCode::NO_CONTENT, &call.locations, (&repository, status)))
}

/// `PATCH`: the next bytes.
pub(super) async fn append(
    api: &Api,
    name: RepositoryName,
    position: UploadPosition,
    call: Call,
) -> Answer {
    let repository = call.hosted(api, &name)?;
    let locations = call.locations.clone();
    let (target, chunk) = (repository.clone(), chunk(call)?);
    let append = async move { target.append_upload(position, chunk).await };
    match api.tasks.detached("append to upload", append).await? {
        Ok(status) => Ok(standing(StatusCode::ACCEPTED, &locations, (&repository, status))),
        Err(error) => Ok(refused(error, &locations, (&repository, position))),
    }
}

/// `PUT`: the last bytes, if any, and the digest of all.
pub(super) async fn finish(
    api: &Api,
    name: RepositoryName,
    position: UploadPosition,
    call: Call,
) -> Answer {
    let repository = call.hosted(api, &name)?;
    let digest = call.digest_parameter("digest")?.ok_or(Error::DigestMissing)?;
    let locations = call.locations.clone();
    let (target, chunk) = (repository.clone(), chunk(call)?);
    let finish = async move { target.finish_upload(position, &digest, chunk).await };
    match api.tasks.detached("finish upload", finish).await? {
        Ok(()) => Ok(created(&locations, &repository, &digest)),
        Err(error) => Ok(refused(error, &locations, (&repository, position))),
    }
}

/// `DELETE`: never mind.
pub(super) async fn cancel(
    api: &Api,
    name: RepositoryName,
    (position, call): (UploadPosition, &Call),
) -> Answer {
    let repository = call.hosted(api, &name)?;
    let cancel = async move { repository.cancel_upload(position).await };
    api.tasks.detached("cancel upload", cancel).await??;
    Ok(empty_response(StatusCode::NO_CONTENT))
}

fn chunk(call: Call) -> Result<Chunk, Error> {
    let parse = |text: &str| text.parse::<ChunkRange>();
    let range = call.header(&header::CONTENT_RANGE).map(parse).transpose()?;
    let range = range.map(|range| range.range());
    Ok(Chunk { range, length: call.content_length(), body: call.into_body() })
}

fn created(locations: &Locations, repository: &Repository, digest: &Digest) -> Response<Body> {
    let mut response = empty_response(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, locations.blob(repository.name(), digest));
    headers.insert(&CONTENT_DIGEST, header_text(digest.to_string()));
    response
}

/// An answer that says where the upload stands and how it goes on.
fn standing(
    code: StatusCode,
    locations: &Locations,
    (repository, status): (&Repository, UploadStatus),
) -> Response<Body> {
    let mut response = empty_response(code);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, locations.upload(repository.name(), status.position()));
    headers.insert(&UPLOAD_UUID, header_text(status.id.to_string()));
    headers.insert(header::RANGE, stored_range(status.offset));
    response
}

/// The stored bytes as an inclusive range. It cannot say "none"; `0-0` is what registries say then.
fn stored_range(offset: u64) -> HeaderValue {
    header_text(format!("0-{}", offset.saturating_sub(1)))
}

/// An error, with the way to go on where there is one.
fn refused(
    error: registry::Error,
    locations: &Locations,
    (repository, position): (&Repository, UploadPosition),
) -> Response<Body> {
    let stands_at = match error {
        registry::Error::UploadOffset { offset } => Some(UploadStatus { id: position.id, offset }),
        _ => None,
    };
    let mut response = Error::Registry(error).into_response();
    if let Some(status) = stands_at {
        let headers = response.headers_mut();
        headers.insert(header::LOCATION, locations.upload(repository.name(), status.position()));
        headers.insert(&UPLOAD_UUID, header_text(status.id.to_string()));
        headers.insert(header::RANGE, stored_range(status.offset));
    }
    response
}
