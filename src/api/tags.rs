//! `/v2/<name>/tags/list` and `/v2/_catalog`

use http::{HeaderValue, Response, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Api,
    blob::header_text,
    body::Body,
    dispatch::{Answer, json_response},
    manifest::warn_if_stale,
    request::Call,
};
use crate::oci::RepositoryName;

/// Names in one catalog page where the client does not say how many it wants.
const CATALOG_PAGE: usize = 100;

/// Names in one page, whatever the client says. It follows the link for more.
const PAGE_MAX: usize = 10_000;

/// What stays as it is in a query value.
const QUERY_VALUE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'/');

pub(super) async fn list(api: &Api, name: RepositoryName, call: &Call) -> Answer {
    let limit = call.page_size()?.map(|size| size.min(PAGE_MAX));
    let place = call.place(api, &name)?;
    let (page, freshness) = place.tags(call.parameter("last"), limit).await?;
    let last = page.tags.last().cloned();
    let body = serde_json::json!({ "name": name.as_str(), "tags": page.tags });
    let mut response = json_response(body.to_string(), "application/json");
    warn_if_stale(response.headers_mut(), freshness);
    if let (true, Some(last), Some(limit)) = (page.more, last, limit) {
        let limit = limit.to_string();
        let mut parameters = vec![("last", last.as_str()), ("n", &limit)];
        parameters.extend(call.parameter("ns").map(|namespace| ("ns", namespace)));
        link_next(&mut response, &call.path, &parameters);
    }
    Ok(response)
}

pub(super) async fn catalog(api: &Api, call: &Call) -> Answer {
    let limit = call.page_size()?.unwrap_or(CATALOG_PAGE).min(PAGE_MAX);
    let page = api.registry.catalog(call.parameter("last").unwrap_or_default(), limit).await?;
    let last = page.repositories.last().cloned();
    let body = serde_json::json!({ "repositories": page.repositories });
    let mut response = json_response(body.to_string(), "application/json");
    if let (true, Some(last)) = (page.more, last) {
        link_next(&mut response, &call.path, &[("last", &last), ("n", &limit.to_string())]);
    }
    Ok(response)
}

/// Says where the next page is (RFC 8288).
pub(super) fn link_next(response: &mut Response<Body>, path: &str, parameters: &[(&str, &str)]) {
    let encode = |(name, value): &(&str, &str)| {
        format!("{name}={}", utf8_percent_encode(value, QUERY_VALUE))
    };
    let query: Vec<String> = parameters.iter().map(encode).collect();
    let link: HeaderValue = header_text(format!("<{path}?{}>; rel=\"next\"", query.join("&")));
    response.headers_mut().insert(header::LINK, link);
}
