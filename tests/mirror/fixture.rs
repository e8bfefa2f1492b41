//! A node, a registry it mirrors, and an image there.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use millpond::oci::Digest;
use reqwest::{Method, RequestBuilder, Response};

use crate::{
    fake_upstream::{FakeUpstream, RawUpstream},
    node::{Backend, TestNode},
};

/// The upstream's name at the node.
pub(crate) const NAME: &str = "other.example";

/// The repository that tests use, as the upstream calls it.
pub(crate) const REPOSITORY: &str = "team/app";

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A node that mirrors one registry.
pub(crate) struct Mirror<U = FakeUpstream> {
    pub(crate) upstream: U,
    pub(crate) node: TestNode,
}

/// An image that lies at the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Bytes,
    pub(crate) digest: Digest,
    pub(crate) config: Digest,
    pub(crate) layer: Digest,
    pub(crate) layer_bytes: Bytes,
}

impl Image {
    /// The path of the layer below the repository.
    pub(crate) fn layer_path(&self) -> String {
        format!("blobs/{}", self.layer)
    }

    /// The path of the configuration below the repository.
    pub(crate) fn config_path(&self) -> String {
        format!("blobs/{}", self.config)
    }
}

impl Mirror {
    /// A mirror whose node has these `settings` of the upstream, as YAML keys in braces: `tag_ttl: 1s`.
    pub(crate) async fn start(backend: Backend, settings: &str) -> Self {
        Self::start_with(backend, settings, "").await
    }

    /// The same, whose node has these `others` too: settings on lines of their own.
    pub(crate) async fn start_with(backend: Backend, settings: &str, others: &str) -> Self {
        let upstream = FakeUpstream::start().await;
        let node = node(backend, upstream.url(), settings, others).await;
        Self { upstream, node }
    }

    /// Puts an image with a layer of so many bytes at the upstream, under a tag of its repository.
    pub(crate) fn put_image(&self, tag: &str, layer_length: usize) -> Image {
        put_image(&self.upstream, tag, layer_length)
    }

    /// How often the upstream was asked for `path` below the repository.
    pub(crate) fn asked(&self, method: &str, path: &str) -> usize {
        self.upstream.count(method, &format!("/v2/{REPOSITORY}/{path}"))
    }

    /// Waits until the upstream was asked that often.
    pub(crate) async fn until_asked(&self, method: &str, path: &str, times: usize) {
        self.upstream.until_asked(method, &format!("/v2/{REPOSITORY}/{path}"), times).await;
    }

    /// The `Range` of each GET of a path so far; empty where there was none.
    pub(crate) fn ranges(&self, path: &str) -> Vec<String> {
        let path = format!("/v2/{REPOSITORY}/{path}");
        let requests = self.upstream.requests();
        let gets = requests.iter().filter(|seen| seen.method == "GET" && seen.path == path);
        let range = |headers: &http::HeaderMap| {
            headers.get("range").map(|range| range.to_str().expect("text").to_owned())
        };
        gets.map(|seen| range(&seen.headers).unwrap_or_default()).collect()
    }
}

impl Mirror<RawUpstream> {
    /// A mirror of a registry that answers everything with the same bytes.
    pub(crate) async fn of_raw(backend: Backend, answer: Vec<u8>, settings: &str) -> Self {
        let upstream = RawUpstream::start(answer).await;
        let node = node(backend, upstream.url(), settings, "").await;
        Self { upstream, node }
    }
}

impl<U> Mirror<U> {
    /// Asks the node for `path` below `/v2/<upstream>/<repository>/`.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).await
    }

    pub(crate) async fn ask(&self, method: Method, path: &str) -> Response {
        self.request(method, path).send().await.expect("the node answers")
    }

    /// Asks for a part of a blob.
    pub(crate) async fn get_range(&self, path: &str, range: &str) -> Response {
        let request = self.request(Method::GET, path).header("range", range);
        request.send().await.expect("the node answers")
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.node.http().request(method, self.url_of(REPOSITORY, path))
    }

    /// Where the node has `path` of a repository of the upstream.
    pub(crate) fn url_of(&self, repository: &str, path: &str) -> String {
        format!("{}/v2/{NAME}/{repository}/{path}", self.node.url())
    }

    /// Whether the bytes of a digest are in the storage, and whether as a blob of the repository.
    pub(crate) fn keeps(&self, digest: &Digest) -> (bool, bool) {
        self.keeps_in(REPOSITORY, digest)
    }

    pub(crate) fn keeps_in(&self, repository: &str, digest: &Digest) -> (bool, bool) {
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        let link = format!("repositories/{NAME}/{repository}/_layers/{algorithm}/{hex}/link");
        (self.file_of(digest).is_file(), self.root().join(link).is_file())
    }

    /// Waits until a manifest is kept, which nobody who asked for it waits for.
    pub(crate) async fn assert_keeps_manifest(&self, digest: &Digest) {
        let kept = until(async || self.keeps_manifest(digest) == (true, true)).await;
        assert!(kept, "{digest} is not kept: {:?}", self.keeps_manifest(digest));
    }

    /// Whether the bytes of a digest are in the storage, and whether as a manifest of the repository.
    pub(crate) fn keeps_manifest(&self, digest: &Digest) -> (bool, bool) {
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        let link =
            format!("repositories/{NAME}/{REPOSITORY}/_manifests/revisions/{algorithm}/{hex}/link");
        (self.file_of(digest).is_file(), self.root().join(link).is_file())
    }

    /// Waits until where a tag points is kept, which nobody who asked for it waits for.
    pub(crate) async fn assert_keeps_tag(&self, tag: &str) {
        let kept = until(async || self.tag_link(tag).is_file()).await;
        assert!(kept, "{tag} is not kept");
    }

    fn tag_link(&self, tag: &str) -> PathBuf {
        let tags = format!("repositories/{NAME}/{REPOSITORY}/_manifests/tags");
        self.root().join(tags).join(tag).join("current/link")
    }

    /// Restarts the node with what the upstream last said about a tag so old. Only on a directory.
    pub(crate) async fn age_tag(&mut self, tag: &str, age: Duration) {
        // Which completes what is being kept, and forgets what is known.
        self.node.restart().await;
        let link = File::options().write(true).open(self.tag_link(tag));
        let dated = link.expect("the tag is held").set_modified(SystemTime::now() - age);
        dated.expect("a file can be dated");
    }

    fn file_of(&self, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        self.root().join(format!("blobs/{algorithm}/{}/{hex}/data", &hex[..2]))
    }

    fn root(&self) -> PathBuf {
        self.node.files().join("docker/registry/v2")
    }

    /// Panics if the storage has a file with the digest in its name, or one that is unfinished.
    pub(crate) fn assert_no_trace_of(&self, digest: &Digest) {
        let hex = digest.hex().to_owned();
        let is_trace = |path: &PathBuf| {
            let path = path.to_string_lossy();
            path.contains(&hex) || path.contains("/unfinished/")
        };
        let traces: Vec<_> = self.files().into_iter().filter(is_trace).collect();
        assert!(traces.is_empty(), "{traces:?}");
    }

    /// Every file of the storage.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        list_files(&self.node.files(), &mut files);
        files
    }

    /// Waits until one fill has ended well, and panics unless the layer is kept, byte by byte, and counted.
    pub(crate) async fn assert_kept(&self, image: &Image) {
        self.until_filled("stored", 1).await;
        assert_eq!(self.keeps(&image.layer), (true, true));
        let stored = std::fs::read(self.file_of(&image.layer)).expect("the blob can be read");
        assert!(stored == image.layer_bytes, "{} bytes, and not the layer's", stored.len());
        assert_eq!(self.metric(&filled_bytes()).await, stored.len() as u64);
    }

    /// Has everything of an image held here.
    pub(crate) async fn pull(&self, image: &Image) {
        for path in [format!("manifests/{}", image.digest), image.layer_path(), image.config_path()]
        {
            assert_eq!(read(self.get(&path).await).await.0, 200, "{path}");
        }
        self.until_filled("stored", 2).await;
    }

    /// Waits until a metric has this value.
    pub(crate) async fn until_metric(&self, line: &str, value: u64) {
        let waited = until(async || self.metric(line).await == value).await;
        assert!(waited, "{line} does not become {value}:\n{}", self.metrics().await);
    }

    /// Waits until so many fills have ended so.
    pub(crate) async fn until_filled(&self, outcome: &str, times: u64) {
        self.until_metric(&fills(outcome), times).await;
    }

    /// The value of a metric, with its labels as they are written; 0 if it is not there.
    pub(crate) async fn metric(&self, line: &str) -> u64 {
        let text = self.metrics().await;
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// All metrics.
    pub(crate) async fn metrics(&self) -> String {
        let url = format!("{}/metrics", self.node.admin_url());
        self.node.http().get(url).send().await.unwrap().text().await.unwrap()
    }
}

/// A node that mirrors the registry at `url`, with these `settings` of it and `others`.
pub(crate) async fn node(backend: Backend, url: &str, settings: &str, others: &str) -> TestNode {
    let all = format!(
        "upstreams: [{{name: {NAME}, aliases: [alias.example], hosts: [mirror.example], \
         listen: '127.0.0.1:0', url: '{url}', plain_http: allow, {settings}}}]\n{others}"
    );
    TestNode::start(backend, &all).await
}

/// The metric of fills that ended so.
pub(crate) fn fills(outcome: &str) -> String {
    format!("millpond_mirror_fills_total{{outcome=\"{outcome}\",upstream=\"{NAME}\"}}")
}

/// The metric of bytes that fills have stored.
pub(crate) fn filled_bytes() -> String {
    format!("millpond_mirror_filled_bytes_total{{upstream=\"{NAME}\"}}")
}

/// The metric of requests for a `manifest` or a `blob` that ended so.
pub(crate) fn requests(kind: &str, outcome: &str) -> String {
    format!(
        "millpond_mirror_requests_total{{kind=\"{kind}\",outcome=\"{outcome}\",upstream=\"{NAME}\"}}"
    )
}

/// The metric of requests to the upstream for a `manifest`, a `blob`, `tags`, `referrers` or a `token` that
/// were answered so.
pub(crate) fn upstream_requests(kind: &str, outcome: &str) -> String {
    format!(
        "millpond_upstream_requests_total{{kind=\"{kind}\",outcome=\"{outcome}\",upstream=\"{NAME}\"}}"
    )
}

/// The metric of bodies from the upstream that ended in this error.
pub(crate) fn body_errors(error: &str) -> String {
    format!("millpond_upstream_body_errors_total{{error=\"{error}\",upstream=\"{NAME}\"}}")
}

/// Waits for a condition, and says whether it came true.
pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.is_ok()
}

fn list_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { list_files(&path, found) } else { found.push(path) }
    }
}

/// Nothing that a test waits for takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: usize, seed: usize) -> Bytes {
    (0..length).map(|at| ((at / 251 + at) ^ seed) as u8).collect::<Vec<u8>>().into()
}

pub(crate) fn put_image(upstream: &FakeUpstream, tag: &str, layer_length: usize) -> Image {
    let layer_bytes = pattern(layer_length, tag.len());
    let config_bytes = Bytes::from(format!("{{\"tag\": {tag:?}}}"));
    let layer = upstream.put_blob(REPOSITORY, layer_bytes.clone());
    let config = upstream.put_blob(REPOSITORY, config_bytes.clone());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.to_string(),
            "size": config_bytes.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.to_string(),
            "size": layer_length,
        }],
    });
    let manifest = Bytes::from(manifest.to_string());
    let digest = upstream.put_manifest(REPOSITORY, Some(tag), MANIFEST_TYPE, manifest.clone());
    Image { manifest, digest, config, layer, layer_bytes }
}

/// The status and the whole body.
pub(crate) async fn read(answer: Response) -> (u16, Bytes) {
    let status = answer.status().as_u16();
    (status, answer.bytes().await.expect("the body ends well"))
}

/// The status and the body as text.
pub(crate) async fn read_text(answer: Response) -> (u16, String) {
    let (status, body) = read(answer).await;
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Panics unless the answer is the layer, whole.
pub(crate) async fn assert_layer(answer: Response, image: &Image) {
    let (status, bytes) = read(answer).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]));
    assert!(bytes == image.layer_bytes, "{} bytes, and not the layer's", bytes.len());
}

/// The value of a header; empty if it is not there.
pub(crate) fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

/// The first `length` bytes of a body that goes on. They come before anything else is waited for.
pub(crate) async fn first_bytes(
    body: &mut (impl Stream<Item = reqwest::Result<Bytes>> + Unpin),
    length: usize,
) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < length {
        let next = tokio::time::timeout(PATIENCE, body.next()).await.expect("bytes come in time");
        read.extend_from_slice(&next.expect("the body goes on").expect("the body does not break"));
    }
    read
}

/// All that is left of a body.
pub(crate) async fn rest_of(
    mut body: impl Stream<Item = reqwest::Result<Bytes>> + Unpin,
) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(next) = body.next().await {
        read.extend_from_slice(&next.expect("the body does not break"));
    }
    read
}
