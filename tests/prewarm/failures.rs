//! Answers that are not as they should be, and what becomes of them.

use std::os::unix::process::ExitStatusExt;

use bytes::Bytes;
use tokio::{net::TcpListener, process::Command};

use crate::{
    content::{Repository, blob, blob_path, config, layer, sha256},
    front::{Fault, Front},
    node::{Backend, TestNode},
    program::{Outcome, PATIENCE, command, run},
};

on_both_backends! {
    a_missing_tag_is_named_and_the_others_go_on,
    corrupt_bytes_fail_their_image_alone,
    a_body_that_breaks_off_is_resumed,
}

/// An image `app:1` of a configuration and a layer, and a front before it.
struct Scene {
    node: TestNode,
    front: Front,
    layer: Bytes,
    layer_path: String,
}

impl Scene {
    async fn on(backend: Backend) -> Self {
        let node = TestNode::start(backend, "").await;
        let (base, settings) = (layer(200_000, 1), config("linux", "amd64", ""));
        Repository { node: &node, name: "app" }.push_image("1", &settings, &[&base]).await;
        let front = Front::before(&node).await;
        Self { node, front, layer_path: blob_path("app", &base), layer: base }
    }

    async fn prewarm(&self) -> Outcome {
        run(&["--server", self.front.url(), "app:1"]).await
    }

    /// `Range` of each request for the layer.
    fn ranges(&self) -> Vec<String> {
        self.front.headers_of(&self.layer_path, "range")
    }
}

async fn a_missing_tag_is_named_and_the_others_go_on(backend: Backend) {
    let scene = Scene::on(backend).await;
    let outcome = run(&["--server", scene.front.url(), "app:none", "app:1"]).await;
    outcome.expect(1, &["app:1: warm", "1 of 2 images warm, 1 failed"]);
    let line = outcome.stderr.lines().find(|line| line.starts_with("app:none: manifest none: "));
    let line = line.unwrap_or_else(|| panic!("{}", outcome.stderr));
    assert!(line.contains("404 Not Found, MANIFEST_UNKNOWN: "), "{line}");
}

async fn corrupt_bytes_fail_their_image_alone(backend: Backend) {
    let scene = Scene::on(backend).await;
    let other = layer(1_000, 2);
    let repository = Repository { node: &scene.node, name: "app" };
    repository.push_image("2", &config("linux", "amd64", "2"), &[&other]).await;
    scene.front.spoil(&scene.layer_path, &[Fault::Corrupt]);
    let outcome = run(&["--server", scene.front.url(), "app:1", "app:2"]).await;
    let told = format!("app:1: blob {}: the bytes that came are corrupt", sha256(&scene.layer));
    outcome
        .expect(1, &[&told, "app:1: failed after ", "app:2: warm", "1 of 2 images warm, 1 failed"]);
    assert_eq!(scene.ranges(), [""], "wrong bytes are not asked for again");
}

async fn a_body_that_breaks_off_is_resumed(backend: Backend) {
    let scene = Scene::on(backend).await;
    scene.front.spoil(&scene.layer_path, &[Fault::CutAfter(70_000), Fault::CutAfter(30_000)]);
    let expected = ["", "bytes=70000-", "bytes=100000-"];
    scene.prewarm().await.expect(0, &["1 of 1 image warm: 195."]);
    assert_eq!(scene.ranges(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_ranges_is_asked_for_everything_again() {
    let scene = Scene::on(Backend::Directory).await;
    scene.front.spoil(&scene.layer_path, &[Fault::CutAfter(70_000), Fault::Whole]);
    scene.prewarm().await.expect(0, &["1 of 1 image warm: 195."]);
    assert_eq!(scene.ranges(), ["", "bytes=70000-"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_again_and_again_fails_after_three_retries() {
    let scene = Scene::on(Backend::Directory).await;
    scene.front.spoil(&scene.layer_path, &[Fault::CutAfter(10); 9]);
    let told = format!("app:1: blob {}: the answer broke off: ", sha256(&scene.layer));
    scene.prewarm().await.expect(1, &[&told]);
    assert_eq!(scene.ranges(), ["", "bytes=10-", "bytes=20-", "bytes=30-"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_another_length_is_an_error() {
    let scene = Scene::on(Backend::Directory).await;
    scene.front.spoil(&scene.layer_path, &[Fault::Short(5), Fault::Long]);
    scene.prewarm().await.expect(1, &["it has 5 bytes and should have 200000\n"]);
    scene.prewarm().await.expect(1, &["it has more than the 200000 bytes that it should have\n"]);
    assert_eq!(scene.ranges(), ["", ""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_manifest_is_an_error() {
    let scene = Scene::on(Backend::Directory).await;
    scene.front.spoil("/v2/app/manifests/1", &[Fault::Corrupt]);
    let told = "app:1: manifest 1: the bytes that came are corrupt";
    scene.prewarm().await.expect(1, &[told, "0 of 1 image warm, 1 failed: 0 B"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_that_may_pass_are_asked_again_and_others_are_not() {
    let scene = Scene::on(Backend::Directory).await;
    scene.front.spoil(&scene.layer_path, &[Fault::Status(503), Fault::Status(429)]);
    scene.front.spoil("/v2/app/manifests/1", &[Fault::Status(502)]);
    scene.prewarm().await.expect(0, &[]);
    assert_eq!(scene.ranges(), ["", "", ""]);

    scene.front.spoil(&scene.layer_path, &[Fault::Status(404)]);
    scene.prewarm().await.expect(1, &[&format!("{}: the answer is 404", sha256(&scene.layer))]);
    assert_eq!(scene.ranges().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirection_is_not_followed() {
    let scene = Scene::on(Backend::Directory).await;
    scene.front.spoil(&scene.layer_path, &[Fault::Status(307)]);
    scene.prewarm().await.expect(1, &["the answer is 307 Temporary Redirect\n"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_fails_is_not_tried_again_for_each_image() {
    let scene = Scene::on(Backend::Directory).await;
    let repository = Repository { node: &scene.node, name: "app" };
    repository.push_image("2", &config("linux", "amd64", "2"), &[&scene.layer]).await;
    scene.front.spoil(&scene.layer_path, &[Fault::Corrupt]);
    let outcome = run(&["--server", scene.front.url(), "app:1", "app:2"]).await;
    outcome.expect(1, &["app:1: blob ", "app:2: blob ", "0 of 2 images warm, 2 failed"]);
    let requests = scene.front.requests();
    let of_layer = requests.iter().filter(|line| **line == blob("app", &scene.layer));
    assert_eq!(of_layer.count(), 1, "{requests:#?}");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_told() {
    // Bound and closed again: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = format!("http://{address}");
    let told = format!("app:latest: manifest latest: {server} does not answer: ");
    run(&["--server", &server, "app"]).await.expect(1, &[&told]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_it_at_once() {
    let scene = Scene::on(Backend::Directory).await;
    scene.front.spoil(&scene.layer_path, &[Fault::Hang]);
    let mut child = command(&["--server", scene.front.url(), "app:1"]).spawn().unwrap();
    scene.front.asked_for(&scene.layer_path).await;
    let id = child.id().expect("it has not ended").to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    // 2 is SIGINT.
    assert_eq!(ended.signal(), Some(2), "{ended:?}");
}
