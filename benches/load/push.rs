//! Pushing a layer, in the two ways clients do it.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{Method, Response, StatusCode};
use http_body_util::Either;
use tokio::time::Instant;

use crate::client::{Client, Payload, Sink, drain, empty, expect, keep, request};
use crate::content::{Framing, Layer};
use crate::report::Sample;

#[derive(Clone, Copy, Debug)]
pub(crate) enum PushStyle {
    /// dockerd, podman: POST, PATCH with a chunked body, PUT with the digest.
    Dockerd,
    /// containerd: POST, PUT with the digest and the whole body.
    Containerd,
}

/// Pushes one layer. The sample's wait is the time from the last content byte to the server's
/// word that it has the layer.
///
/// # Errors
/// When the server does not take it.
pub(crate) async fn push(
    client: &mut Client,
    repository: &str,
    layer: &Layer,
    style: PushStyle,
) -> Result<Sample> {
    let begin = Instant::now();
    let session = request(Method::POST, &format!("/v2/{repository}/blobs/uploads/"));
    let (location, _) = step(client, session, empty(), StatusCode::ACCEPTED).await?;
    let sent = match style {
        PushStyle::Dockerd => chunked(client, &location, layer).await?,
        PushStyle::Containerd => whole(client, &location, layer).await?,
    };
    let sent = *sent.get().context("the server answered before it had the whole layer")?;
    let end = Instant::now();
    Ok(Sample { content_bytes: layer.size_bytes, wait: end - sent, total: end - begin })
}

async fn chunked(
    client: &mut Client,
    location: &str,
    layer: &Layer,
) -> Result<Arc<OnceLock<Instant>>> {
    let body = layer.body(Framing::Chunked);
    let sent = body.sent();
    let patch = request(Method::PATCH, location);
    let (location, _) = step(client, patch, Either::Right(body), StatusCode::ACCEPTED).await?;
    let put = request(Method::PUT, &with_digest(&location, layer));
    finish(client, put, empty(), layer).await?;
    Ok(sent)
}

async fn whole(
    client: &mut Client,
    location: &str,
    layer: &Layer,
) -> Result<Arc<OnceLock<Instant>>> {
    let body = layer.body(Framing::Length);
    let sent = body.sent();
    let put = request(Method::PUT, &with_digest(location, layer))
        .header(CONTENT_TYPE, "application/octet-stream");
    finish(client, put, Either::Right(body), layer).await?;
    Ok(sent)
}

async fn finish(
    client: &mut Client,
    put: http::request::Builder,
    payload: Payload,
    layer: &Layer,
) -> Result<()> {
    let (_, named) = step(client, put, payload, StatusCode::CREATED).await?;
    ensure!(
        named.as_deref().is_none_or(|named| named == layer.digest),
        "pushed {}, the server has {named:?}",
        layer.digest
    );
    Ok(())
}

/// One request of an upload: the place to go on, and the digest the server gave the content.
async fn step(
    client: &mut Client,
    request: http::request::Builder,
    payload: Payload,
    wanted: StatusCode,
) -> Result<(String, Option<String>)> {
    let response = expect(client.send(request, payload).await?, wanted).await?;
    let location = path_of(header(&response, LOCATION.as_str()).context("no Location")?);
    let digest = header(&response, "docker-content-digest").map(str::to_owned);
    keep(response.into_body()).await?;
    Ok((location, digest))
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The path and query of a Location, which may name the server as well.
fn path_of(location: &str) -> String {
    let path = location
        .split_once("://")
        .and_then(|(_, rest)| rest.find('/').map(|start| &rest[start..]))
        .unwrap_or(location);
    path.to_owned()
}

/// Adds the digest as all clients do, with its colon encoded.
fn with_digest(location: &str, layer: &Layer) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={}", layer.digest.replace(':', "%3A"))
}

/// Reads a pushed layer back and hashes it.
///
/// # Errors
/// When the server returns anything else.
pub(crate) async fn verify(client: &mut Client, repository: &str, layer: &Layer) -> Result<()> {
    let get = request(Method::GET, &format!("/v2/{repository}/blobs/{}", layer.digest));
    let response = expect(client.send(get, empty()).await?, StatusCode::OK).await?;
    let drained = drain(response, Sink::Hash).await?;
    ensure!(
        drained.digest.as_ref() == Some(&layer.digest),
        "pushed {}, got {:?} back",
        layer.digest,
        drained.digest
    );
    Ok(())
}
