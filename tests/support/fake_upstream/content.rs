//! What the registry holds, and what it answers.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use millpond::oci::Digest;
use serde_json::{Value, json};

/// Everything in the registry.
#[derive(Debug)]
pub(super) struct Content {
    blobs: HashMap<(String, String), Bytes>,
    manifests: HashMap<(String, String), (String, Bytes)>,
    tags: BTreeMap<(String, String), String>,
    pub(super) page: usize,
    pub(super) has_referrers: bool,
}

/// An answer before anything has gone wrong with it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Default for Content {
    fn default() -> Self {
        let (blobs, manifests, tags) = Default::default();
        Self { blobs, manifests, tags, page: 1000, has_referrers: true }
    }
}

impl Content {
    pub(super) fn put_blob(&mut self, repository: &str, digest: Digest, bytes: Bytes) {
        self.blobs.insert((repository.to_owned(), digest.to_string()), bytes);
    }

    pub(super) fn put_manifest(
        &mut self,
        repository: &str,
        digest: Digest,
        media_type: &str,
        bytes: Bytes,
    ) {
        let key = (repository.to_owned(), digest.to_string());
        self.manifests.insert(key, (media_type.to_owned(), bytes));
    }

    pub(super) fn tag(&mut self, repository: &str, tag: &str, digest: Digest) {
        self.tags.insert((repository.to_owned(), tag.to_owned()), digest.to_string());
    }

    /// Answers a GET; a HEAD is the same without the body.
    pub(super) fn answer(&self, path: &str, query: &str) -> Answer {
        let parts = ["blobs", "manifests", "referrers", "tags"];
        let split = |part: &'static str| {
            let (repository, rest) =
                path.strip_prefix("/v2/")?.rsplit_once(&format!("/{part}/"))?;
            Some((repository.to_owned(), part, rest.to_owned()))
        };
        let Some((repository, part, rest)) = parts.into_iter().find_map(split) else {
            return if path == "/v2/" { Answer::json(&json!({})) } else { Answer::not_found() };
        };
        match part {
            "blobs" => self.blob((repository, rest)),
            "manifests" => self.manifest(repository, rest),
            "referrers" => self.referrers(&repository, &rest, query),
            _ => self.tag_list(&repository, query),
        }
    }

    fn blob(&self, key: (String, String)) -> Answer {
        let Some(bytes) = self.blobs.get(&key) else { return Answer::not_found() };
        Answer::new("application/octet-stream", bytes.clone()).with("docker-content-digest", &key.1)
    }

    fn manifest(&self, repository: String, reference: String) -> Answer {
        let digest = self.tags.get(&(repository.clone(), reference.clone())).cloned();
        let digest = digest.unwrap_or(reference);
        let Some((media_type, bytes)) = self.manifests.get(&(repository, digest.clone())) else {
            return Answer::not_found();
        };
        Answer::new(media_type, bytes.clone()).with("docker-content-digest", &digest)
    }

    fn tag_list(&self, repository: &str, query: &str) -> Answer {
        let tags: Vec<&String> =
            self.tags.keys().filter(|(name, _)| name == repository).map(|(_, tag)| tag).collect();
        if tags.is_empty() {
            return Answer::not_found();
        }
        let asked = parameter(query, "n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let last = parameter(query, "last").unwrap_or_default();
        let count = self.page.min(asked);
        let rest: Vec<&String> = tags.into_iter().filter(|tag| tag.as_str() > last).collect();
        let page = &rest[..rest.len().min(count)];
        let answer = Answer::json(&json!({ "name": repository, "tags": page }));
        match page.last() {
            Some(last) if rest.len() > count => {
                let next =
                    format!("</v2/{repository}/tags/list?n={count}&last={last}>; rel=\"next\"");
                answer.with("link", &next)
            }
            _ => answer,
        }
    }

    /// Manifests whose subject is `digest`, in the order of their digests.
    fn referrers(&self, repository: &str, digest: &str, query: &str) -> Answer {
        if !self.has_referrers {
            return Answer::not_found();
        }
        let mut found: Vec<Value> = Vec::new();
        for ((name, own), (media_type, bytes)) in &self.manifests {
            let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
            if name == repository && manifest["subject"]["digest"] == digest {
                found.push(json!({
                    "mediaType": media_type, "digest": own, "size": bytes.len(),
                    "artifactType": manifest["artifactType"].as_str().unwrap_or("none"),
                }));
            }
        }
        found.sort_by_key(|descriptor| descriptor["digest"].to_string());
        let start: usize = parameter(query, "from").and_then(|n| n.parse().ok()).unwrap_or(0);
        let end = found.len().min(start + self.page);
        let index = "application/vnd.oci.image.index.v1+json";
        let body = json!({
            "schemaVersion": 2, "mediaType": index, "manifests": found[start..end].to_vec(),
        });
        let answer = Answer::new(index, body.to_string());
        if end == found.len() {
            return answer;
        }
        answer.with(
            "link",
            &format!("</v2/{repository}/referrers/{digest}?from={end}>; rel=\"next\""),
        )
    }
}

impl Answer {
    fn new(media_type: &str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let length = body.len().to_string();
        let answer = Self { status: StatusCode::OK, headers: HeaderMap::new(), body };
        answer.with("content-type", media_type).with("content-length", &length)
    }

    pub(super) fn json(value: &Value) -> Self {
        Self::new("application/json", value.to_string())
    }

    pub(super) fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status");
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }.with("content-length", "0")
    }

    pub(super) fn not_found() -> Self {
        let body = json!({ "errors": [{ "code": "NAME_UNKNOWN", "message": "not here" }] });
        Self { status: StatusCode::NOT_FOUND, ..Self::json(&body) }
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().expect("a header value"));
        self
    }

    /// The part of a good answer that `range` asks for, in the form `bytes=5-` or `bytes=5-9`.
    pub(super) fn part(self, range: &str) -> Self {
        let total = self.body.len();
        let bounds = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let Some((first, last)) = bounds else { return self };
        let Ok(first) = first.parse::<usize>() else { return self };
        let end = last.parse().map_or(total, |last: usize| total.min(last + 1));
        if first >= end {
            return Self::status(416).with("content-range", &format!("bytes */{total}"));
        }
        let range = format!("bytes {first}-{}/{total}", end - 1);
        let part = Self {
            status: StatusCode::PARTIAL_CONTENT,
            body: self.body.slice(first..end),
            headers: self.headers,
        };
        let length = part.body.len().to_string();
        part.with("content-range", &range).with("content-length", &length)
    }
}

/// The value of a parameter of a query.
pub(super) fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|found| found.1)
}
