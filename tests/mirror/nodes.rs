//! What several nodes on one bucket fetch from another registry: once for all of them.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::{Client, Response};
use tempfile::TempDir;

use crate::{
    fake_upstream::{Access, FakeUpstream, TokenServer},
    fixture::{Image, NAME, REPOSITORY, pattern, put_image, read, until},
    ports::free_ports,
    s3_server::S3Server,
};

/// Clients of each node.
const CLIENTS: usize = 4;

/// Nodes of one cluster, each a process of its own, in front of a registry that they mirror.
pub(crate) struct Nodes {
    pub(crate) upstream: FakeUpstream,
    pub(crate) s3: S3Server,
    pub(crate) nodes: Vec<Node>,
    http: Client,
}

/// A process. It does not outlive its handle.
pub(crate) struct Node {
    process: Child,
    url: String,
    admin_url: String,
    _folder: TempDir,
}

impl Node {
    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Nodes {
    /// Three nodes with these `settings` of the upstream.
    pub(crate) async fn start(settings: &str) -> Self {
        let (upstream, s3) = (FakeUpstream::start().await, S3Server::start().await);
        let ports = free_ports(9);
        let peers = &ports[..3];
        let start = |(number, peer): (usize, &u16)| {
            let (api, admin) = (ports[3 + number], ports[6 + number]);
            start_node((&upstream, &s3), (peers, *peer), (api, admin), settings)
        };
        let nodes = peers.iter().enumerate().map(start).collect();
        // Only the first call in a process has an effect; the others agree with it.
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = Client::builder().no_proxy().build().expect("a client without TLS");
        let nodes = Self { upstream, s3, nodes, http };
        let agree = until(async || {
            let members = (0..3).map(|node| nodes.metric(node, "millpond_cluster_members"));
            join_all(members).await.into_iter().all(|members| members == Some(3))
        });
        assert!(agree.await, "the nodes do not find each other");
        nodes.s3.take_requests();
        nodes
    }

    pub(crate) fn put_image(&self, tag: &str, layer_length: usize) -> Image {
        put_image(&self.upstream, tag, layer_length)
    }

    /// Asks a node for `path` below the repository.
    pub(crate) async fn get(&self, node: usize, path: &str) -> Response {
        let url = format!("{}/v2/{NAME}/{REPOSITORY}/{path}", self.nodes[node].url);
        self.http.get(url).send().await.expect("the node answers")
    }

    /// How often the upstream was asked for `path` below the repository.
    pub(crate) fn asked(&self, method: &str, path: &str) -> usize {
        self.upstream.count(method, &format!("/v2/{REPOSITORY}/{path}"))
    }

    /// The value of a metric without labels, or with them as they are written; nothing if the node does not answer.
    pub(crate) async fn metric(&self, node: usize, name: &str) -> Option<u64> {
        let url = format!("{}/metrics", self.nodes[node].admin_url);
        let text = self.http.get(url).send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Has clients of all nodes pull an image at the same time, and panics unless they get it.
    pub(crate) async fn pull_at_once(&self, tag: &str, image: &Image) {
        let nodes = 0..self.nodes.len();
        let clients = nodes.flat_map(|node| (0..CLIENTS).map(move |_| node));
        join_all(clients.map(|node| self.pull(node, tag, image))).await;
    }

    async fn pull(&self, node: usize, tag: &str, image: &Image) {
        let (status, manifest) = read(self.get(node, &format!("manifests/{tag}")).await).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&manifest));
        assert!(manifest == image.manifest, "another manifest");
        let (config, layer) =
            tokio::join!(async { read(self.get(node, &image.config_path()).await).await }, async {
                read(self.get(node, &image.layer_path()).await).await
            },);
        assert_eq!(config.0, 200, "{}", String::from_utf8_lossy(&config.1));
        assert_eq!(layer.0, 200, "{}", String::from_utf8_lossy(&layer.1));
        assert!(layer.1 == image.layer_bytes, "{} bytes, and not the layer's", layer.1.len());
    }
}

fn start_node(
    (upstream, s3): (&FakeUpstream, &S3Server),
    (peers, peer): (&[u16], u16),
    (api, admin): (u16, u16),
    settings: &str,
) -> Node {
    let folder = TempDir::new().expect("a temporary folder");
    let members: Vec<String> = peers.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
    let config = format!(
        "log: {{level: error}}\n\
         api: {{listen: ['127.0.0.1:{api}'], admin: '127.0.0.1:{admin}'}}\n\
         storage: {{s3: {{endpoint: '{endpoint}', bucket: {bucket}, access_key: {access_key}, \
         secret_key: {secret_key}, spool: spool, part: 5MiB, retry_backoff: 5ms}}}}\n\
         cache: {{memory: 128MiB, disk: {{path: disk, size: 64MiB}}}}\n\
         cluster: {{listen: '127.0.0.1:{peer}', members: [{members}], \
         secret: a-secret-of-the-test-nodes, warm_up: 0s}}\n\
         upstreams: [{{name: {NAME}, url: '{url}', plain_http: allow, {settings}}}]\n",
        endpoint = s3.endpoint(),
        bucket = s3.bucket(),
        access_key = s3.access_key(),
        secret_key = s3.secret_key(),
        members = members.join(", "),
        url = upstream.url(),
    );
    std::fs::write(folder.path().join("millpond.yaml"), config).expect("a file");
    let process = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["serve", "--config", "millpond.yaml"])
        .current_dir(folder.path())
        .env_clear()
        .stdin(Stdio::null())
        .spawn()
        .expect("the program starts");
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    Node { process, url: url(api), admin_url: url(admin), _folder: folder }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_all_nodes_are_asked_for_costs_the_upstream_one_get_for_each_object() {
    let nodes = Nodes::start("").await;
    nodes.upstream.set_access(Access::Token(TokenServer::default()));
    // Longer than what is checked as a whole, and shorter.
    for (tag, length) in [("long", 20 << 20), ("short", 3 << 20), ("longer", 70 << 20)] {
        nodes.upstream.forget_requests();
        let image = nodes.put_image(tag, length);
        nodes.pull_at_once(tag, &image).await;
        let paths = [format!("manifests/{tag}"), image.config_path(), image.layer_path()];
        for path in &paths {
            // Without a token the first request of a node is refused.
            let gets = nodes.asked("GET", path);
            assert!((1..=2).contains(&gets), "{tag}: {path} was asked for {gets} times");
        }
        assert_eq!(nodes.asked("GET", &format!("manifests/{}", image.digest)), 0);
        nodes.pull_at_once(tag, &image).await;
        assert_eq!(nodes.asked("HEAD", &paths[0]), 0, "the tag is fresh");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_asked_for_once_in_its_time_by_all_nodes_together() {
    let nodes = Nodes::start("tag_ttl: 1s").await;
    let image = nodes.put_image("v1", 100_000);
    nodes.pull_at_once("v1", &image).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    nodes.pull_at_once("v1", &image).await;
    let heads = nodes.asked("HEAD", "manifests/v1");
    assert!(heads <= 2, "the time may be over twice on a slow machine, but: {heads}");
    assert!(heads >= 1);
    assert_eq!(nodes.asked("GET", "manifests/v1"), 1);
    assert_eq!(nodes.asked("GET", &image.layer_path()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_lengths_and_what_is_not_there_are_asked_for_once() {
    let nodes = Nodes::start("").await;
    let image = nodes.put_image("v1", 100_000);
    let missing = pattern(10, 3);
    let missing = format!("blobs/{}", millpond::oci::Digest::of(image.layer.algorithm(), &missing));
    for (path, method, status) in [
        ("tags/list".to_owned(), "GET", 200),
        (missing, "GET", 404),
        ("manifests/none".to_owned(), "GET", 404),
    ] {
        let asked = (0..9).map(|number| nodes.get(number % 3, &path));
        for answer in join_all(asked).await {
            assert_eq!(answer.status(), status, "{path}");
        }
        assert_eq!(nodes.asked(method, &path), 1, "{path}");
    }
    let layer = image.layer_path();
    let heads = (0..9).map(|number| {
        let url = format!("{}/v2/{NAME}/{REPOSITORY}/{layer}", nodes.nodes[number % 3].url);
        nodes.http.head(url).send()
    });
    for answer in join_all(heads).await {
        let answer = answer.expect("the node answers");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-length"], "100000");
    }
    assert!(nodes.asked("HEAD", &layer) < 9, "{}", nodes.asked("HEAD", &layer));
    assert_eq!(nodes.asked("GET", &layer), 0);
}
