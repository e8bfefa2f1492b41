//! Addresses that stand for one registry, and nodes that start without any.

use bytes::Bytes;
use millpond::{
    config::Config,
    oci::{Algorithm, Digest},
    runtime::Shutdown,
    server::Server,
};
use tokio::task::JoinHandle;

use crate::{
    fixture::{MANIFEST_TYPE, Mirror, NAME, REPOSITORY, read, read_text},
    node::Backend,
};

/// A node with all its addresses, which a [`crate::node::TestNode`] does not tell.
pub(crate) struct Daemon {
    /// First the registry, then those that stand for one upstream.
    pub(crate) urls: Vec<String>,
    shutdown: Shutdown,
    served: JoinHandle<usize>,
}

impl Daemon {
    pub(crate) async fn start(config: Config) -> Self {
        let shutdown = Shutdown::new();
        let server = Server::bind(config, shutdown.clone()).await.expect("the node starts");
        let addresses = server.addresses().expect("the addresses are bound");
        let urls = addresses.iter().map(|address| format!("http://{address}")).collect();
        Self { urls, shutdown, served: tokio::spawn(server.run()) }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        assert_eq!(self.served.await.expect("the server does not panic"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_address_of_an_upstream_every_name_is_one_of_its_names() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 1000);
    let daemon = Daemon::start(mirror.node.config()).await;
    let [registry, bound] = daemon.urls.as_slice() else { panic!("{:?}", daemon.urls) };
    let http = mirror.node.http();
    let at = async |base: &str, path: &str| http.get(format!("{base}{path}")).send().await.unwrap();
    let manifest = format!("/v2/{REPOSITORY}/manifests/v1");
    assert_eq!(read(at(bound, &manifest).await).await, (200, image.manifest.clone()));
    let layer = format!("/v2/{REPOSITORY}/{}", image.layer_path());
    assert_eq!(read(at(bound, &layer).await).await, (200, image.layer_bytes));
    assert_eq!(at(bound, &format!("/v2/{REPOSITORY}/tags/list")).await.status(), 200);
    assert_eq!(at(bound, "/v2/").await.status(), 200);
    // At the registry's own address the same name is hosted, and not there.
    assert_eq!(at(registry, &manifest).await.status(), 404);
    // What the client says it means goes before where it came.
    let (status, body) = read_text(at(bound, &format!("{manifest}?ns=no.example")).await).await;
    assert_eq!((status, body.contains("NAME_UNKNOWN")), (404, true), "{body}");
    assert_eq!(at(bound, &format!("{manifest}?ns={NAME}")).await.status(), 200);
    // The upstream's own name is no part of its names.
    assert_eq!(at(bound, &format!("/v2/{NAME}/{REPOSITORY}/manifests/v1")).await.status(), 404);
    let push = http.post(format!("{bound}/v2/{REPOSITORY}/blobs/uploads/")).send().await.unwrap();
    let (status, body) = read_text(push).await;
    assert_eq!((status, body.contains("DENIED")), (403, true), "{body}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_without_its_upstream_and_has_what_it_hosts() {
    for backend in [Backend::Directory, Backend::S3] {
        let mut mirror = Mirror::start(backend, "").await;
        mirror.upstream.stop().await;
        mirror.node.restart().await;
        let http = mirror.node.http();
        let hosted = format!("{}/v2/{REPOSITORY}", mirror.node.url());
        let blob = Bytes::from_static(b"{}");
        let digest = Digest::of(Algorithm::Sha256, &blob);
        let push = http.post(format!("{hosted}/blobs/uploads/?digest={digest}")).body(blob.clone());
        assert_eq!(push.send().await.unwrap().status(), 201);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": [],
            "config": {"mediaType": "application/json", "digest": digest.to_string(), "size": 2},
        });
        let manifest = Bytes::from(manifest.to_string());
        let put = http.put(format!("{hosted}/manifests/v1")).body(manifest.clone());
        let put = put.header("content-type", MANIFEST_TYPE).send().await.unwrap();
        assert_eq!(put.status(), 201);
        let got = http.get(format!("{hosted}/manifests/v1")).send().await.unwrap();
        assert_eq!(read(got).await, (200, manifest));
        assert_eq!(mirror.get("manifests/v1").await.status(), 502);
        // And it mirrors as soon as there is something to mirror.
        mirror.upstream.restart().await;
        let image = mirror.put_image("v1", 10);
        assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest));
    }
}
