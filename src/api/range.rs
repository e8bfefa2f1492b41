//! Answers with a part of a blob (RFC 9110, section 14).

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Response, StatusCode, header};

use super::{
    blob::header_text,
    body::{Body, chain},
    error::Error,
    sendfile::FileLane,
};
use crate::{
    oci::{ByteRange, Digest, RangeHeader},
    registry::{self, Place},
    storage::ObjectStream,
};

/// What a client asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Everything,
    One(ByteRange),
    Several(Vec<ByteRange>),
    Nothing,
}

/// Reads `Range` and `If-Range`. A range is ignored if the client has another version in mind.
pub(super) fn wanted(headers: &HeaderMap, digest: &Digest) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let Some(range) = text(header::RANGE) else { return Wanted::Everything };
    if text(header::IF_RANGE).is_some_and(|tag| tag.trim() != format!("\"{digest}\"")) {
        return Wanted::Everything;
    }
    match RangeHeader::parse(range) {
        RangeHeader::Ignored => Wanted::Everything,
        RangeHeader::Unsatisfiable => Wanted::Nothing,
        RangeHeader::Ranges(ranges) => match ranges.as_slice() {
            [one] => Wanted::One(*one),
            _ => Wanted::Several(ranges),
        },
    }
}

pub(super) async fn respond(
    place: &Place,
    digest: &Digest,
    (wanted, lane): (Wanted, Option<&FileLane>),
) -> Result<Response<Body>, Error> {
    match wanted {
        Wanted::Everything => whole(place, digest, lane).await,
        Wanted::One(range) => one(place, digest, (range, lane)).await,
        Wanted::Several(ranges) => several(place, digest, (&ranges, lane)).await,
        Wanted::Nothing => {
            let size_bytes = place.stat_blob(digest).await?;
            Err(registry::Error::RangeOutside { digest: *digest, size_bytes }.into())
        }
    }
}

async fn whole(
    place: &Place,
    digest: &Digest,
    lane: Option<&FileLane>,
) -> Result<Response<Body>, Error> {
    let content = place.open_blob(digest, None).await?;
    Ok(Response::new(Body::opened(content.bytes, content.size_bytes, lane).await?))
}

async fn one(
    place: &Place,
    digest: &Digest,
    (range, lane): (ByteRange, Option<&FileLane>),
) -> Result<Response<Body>, Error> {
    let content = place.open_blob(digest, Some(range)).await?;
    let (range, total) = (content.range, content.size_bytes);
    let body = Body::opened(content.bytes, range.end - range.start, lane).await?;
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let described = content_range(&range, total);
    response.headers_mut().insert(header::CONTENT_RANGE, header_text(described));
    Ok(response)
}

fn content_range(range: &std::ops::Range<u64>, total: u64) -> String {
    format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1))
}

/// Several ranges in one `multipart/byteranges` body. Each is opened when its turn comes.
async fn several(
    place: &Place,
    digest: &Digest,
    (ranges, lane): (&[ByteRange], Option<&FileLane>),
) -> Result<Response<Body>, Error> {
    let total = place.stat_blob(digest).await?;
    let ranges: Vec<_> = ranges.iter().filter_map(|range| range.resolve(total)).collect();
    if ranges.is_empty() {
        return Err(registry::Error::RangeOutside { digest: *digest, size_bytes: total }.into());
    }
    // Overlapping ranges that add up to more than everything: everything is less work for both.
    if ranges.iter().map(|range| range.end - range.start).sum::<u64>() > total {
        return whole(place, digest, lane).await;
    }
    let boundary = format!("{:032x}", fastrand::u128(..));
    let parts: Vec<_> = ranges.iter().map(|range| part_header(&boundary, range, total)).collect();
    let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    let length = parts.iter().map(|part| part.len() as u64).sum::<u64>()
        + ranges.iter().map(|range| range.end - range.start).sum::<u64>()
        + end.len() as u64;
    let (place, digest) = (place.clone(), *digest);
    let bodies = stream::iter(parts.into_iter().zip(ranges)).flat_map(move |(part, range)| {
        let bytes = part_bytes(place.clone(), digest, range);
        stream::iter([text(part), bytes])
    });
    let body = Body::stream(chain(bodies.chain(stream::once(async { text(end) }))), length);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let media_type = header_text(format!("multipart/byteranges; boundary={boundary}"));
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    Ok(response)
}

fn part_header(boundary: &str, range: &std::ops::Range<u64>, total: u64) -> Bytes {
    let described = content_range(range, total);
    format!(
        "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {described}\r\n\r\n"
    )
    .into()
}

fn text(bytes: Bytes) -> ObjectStream {
    stream::once(async { Ok(bytes) }).boxed()
}

fn part_bytes(place: Place, digest: Digest, range: std::ops::Range<u64>) -> ObjectStream {
    let range = ByteRange::Bounded { start: range.start, end: range.end };
    let opened = async move {
        let opened = match place.open_blob(&digest, Some(range)).await {
            Ok(content) => content.bytes.into_stream().await.map_err(registry::Error::from),
            Err(error) => Err(error),
        };
        match opened {
            Ok(stream) => stream,
            // The headers are out: all that is left is to cut the connection.
            Err(error) => stream::once(std::future::ready(Err(cut_short(&digest, error)))).boxed(),
        }
    };
    stream::once(opened).flatten().boxed()
}

fn cut_short(digest: &Digest, error: registry::Error) -> crate::storage::Error {
    use crate::storage::{Error, Fault, layout};
    Error::failed("open", &layout::blob(digest), Fault::Unavailable, error)
}
