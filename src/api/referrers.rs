//! `/v2/<name>/referrers/<digest>`

use http::{HeaderName, HeaderValue};

use super::{
    Api,
    dispatch::{Answer, json_response},
    manifest::warn_if_stale,
    request::Call,
    tags::link_next,
};
use crate::oci::{Digest, MediaType, RepositoryName};

/// Descriptors in one page. With annotations of the usual size a page stays well below 4 MiB.
const PAGE_MAX: usize = 1_000;

static FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

pub(super) async fn list(
    api: &Api,
    name: RepositoryName,
    (digest, call): (&Digest, &Call),
) -> Answer {
    let artifact_type = call.parameter("artifactType");
    let limit = call.page_size()?.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let last = call.digest_parameter("last")?;
    let place = call.place(api, &name)?;
    let (page, freshness) = place.referrers(digest, artifact_type, (last, limit)).await?;
    let last = page.descriptors.last().map(|descriptor| descriptor.digest.to_string());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OciIndex.name(),
        "manifests": page.descriptors,
    });
    let mut response = json_response(index.to_string(), MediaType::OciIndex.name());
    warn_if_stale(response.headers_mut(), freshness);
    if artifact_type.is_some() {
        response.headers_mut().insert(&FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let (true, Some(last)) = (page.more, last) {
        let limit = limit.to_string();
        let mut parameters = vec![("last", last.as_str()), ("n", limit.as_str())];
        parameters.extend(call.parameter("ns").map(|namespace| ("ns", namespace)));
        parameters.extend(artifact_type.map(|wanted| ("artifactType", wanted)));
        link_next(&mut response, &call.path, &parameters);
    }
    Ok(response)
}
