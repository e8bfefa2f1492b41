//! Lists of an upstream: tags and referrers, page by page.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::Url;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Duration, timeout};

use super::{
    Error, Upstream,
    exchange::{Answer, Call},
    link,
    metrics::Kind,
    remote::content_type,
};
use crate::oci::{Descriptor, Digest, MediaType, Reference, RepositoryName};

/// Tags that are asked for in one request.
const PAGE: usize = 1000;

/// Most pages of one list; a list that is longer is an error.
const PAGES_MOST: usize = 1000;

/// Longest page in bytes.
const PAGE_MAX_BYTES: u64 = 4 << 20;

/// Most bytes of all pages together.
const LIST_MAX_BYTES: u64 = 64 << 20;

/// Longest time for a whole list.
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Deserialize)]
struct TagPage {
    /// Absent or null where a repository has none.
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct IndexPage {
    manifests: Option<Vec<Descriptor>>,
}

/// One page, and where the next one is.
struct Page {
    bytes: Bytes,
    content_type: Option<String>,
    next: Option<String>,
}

impl Upstream {
    /// All tags of a repository, in the upstream's order.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there is no end of them, and the others.
    pub async fn tags(&self, repository: &RepositoryName) -> Result<Vec<String>, Error> {
        let first = format!("tags/list?n={PAGE}");
        let pages = self.pages::<TagPage>(Kind::Tags, repository, first, None);
        let pages = self.in_time(pages).await?;
        Ok(pages.into_iter().filter_map(|page| page.tags).flatten().collect())
    }

    /// The manifests whose subject is `digest`. An upstream without the referrers API is asked for the tag
    /// that stands in for it (distribution-spec, "Referrers Tag Schema").
    ///
    /// # Errors
    /// [`Error`]; that there are none is no error.
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, Error> {
        let first = format!("referrers/{digest}");
        let is_index = Some(MediaType::OciIndex);
        let pages = self.pages::<IndexPage>(Kind::Referrers, repository, first, is_index);
        let pages = match self.in_time(pages).await {
            // 404 says that there is no such API; an empty list has a page.
            Err(Error::NotFound { .. } | Error::Status { status: 405, .. }) => {
                self.referrers_by_tag(repository, digest).await?
            }
            pages => pages?,
        };
        Ok(pages.into_iter().filter_map(|page| page.manifests).flatten().collect())
    }

    async fn referrers_by_tag(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<IndexPage>, Error> {
        let Ok(tag) = format!("{}-{}", digest.algorithm(), digest.hex()).parse() else {
            // The scheme cuts long digests off; no registry without the API has sha512.
            return Ok(Vec::new());
        };
        match self.fetch_manifest(repository, &Reference::Tag(tag), PAGE_MAX_BYTES).await {
            Ok(found) => Ok(vec![self.json(&found.bytes)?]),
            Err(Error::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout(PATIENCE, work).await.unwrap_or_else(|_| {
            Err(Error::Timeout { upstream: Arc::clone(&self.name), after: PATIENCE })
        })
    }

    /// Reads page after page. A first page that is not of the type `expected` is as good as none: web
    /// servers answer paths they do not know with a page for people.
    async fn pages<T: DeserializeOwned>(
        &self,
        kind: Kind,
        repository: &RepositoryName,
        first: String,
        expected: Option<MediaType>,
    ) -> Result<Vec<T>, Error> {
        let mut pages = Vec::new();
        let (mut at, mut bytes_left) = (first, LIST_MAX_BYTES);
        for _ in 0..PAGES_MOST {
            let page = self.page(kind, repository, &at).await?;
            let media_type = page.content_type.as_deref().and_then(MediaType::from_name);
            if expected.is_some() && media_type != expected {
                return Err(Error::NotFound { upstream: Arc::clone(&self.name) });
            }
            pages.push(self.json(&page.bytes)?);
            let left = bytes_left.checked_sub(page.bytes.len() as u64);
            bytes_left = left.ok_or_else(|| self.too_large())?;
            match page.next {
                None => return Ok(pages),
                Some(next) => at = self.within(repository, &next)?,
            }
        }
        Err(self.too_large())
    }

    async fn page(
        &self,
        kind: Kind,
        repository: &RepositoryName,
        path: &str,
    ) -> Result<Page, Error> {
        let mut headers = HeaderMap::new();
        let accepted = match kind {
            Kind::Referrers => MediaType::OciIndex.name(),
            _ => "application/json",
        };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accepted));
        let call = Call { kind, method: Method::GET, repository, path, headers };
        let Answer { response, permits } = self.ask(call).await?;
        let (next, content_type) =
            (link::next(response.headers()), content_type(response.headers()));
        let bytes = self.meter.read(response, PAGE_MAX_BYTES).await?;
        drop(permits);
        Ok(Page { bytes, content_type, next })
    }

    /// The path below the repository that a link goes to. Of a link to another host, as registries behind
    /// a proxy may write it, only path and query are used.
    fn within(&self, repository: &RepositoryName, link: &str) -> Result<String, Error> {
        let base = Url::parse("http://upstream/v2/").expect("the text is a URL");
        let strange = || self.protocol("a listing goes on at another place");
        let target = base.join(link).map_err(|_| strange())?;
        let path = match target.query() {
            Some(query) => format!("{}?{query}", target.path()),
            None => target.path().to_owned(),
        };
        let rest = path.strip_prefix(&format!("/v2/{repository}/"));
        rest.map(str::to_owned).ok_or_else(strange)
    }

    fn json<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(bytes).map_err(|_| self.protocol("a listing is not of its form"))
    }

    fn too_large(&self) -> Error {
        Error::TooLarge { upstream: Arc::clone(&self.name), limit_bytes: LIST_MAX_BYTES }
    }
}
