//! A daemon behind TLS.

use crate::{
    certificates::file,
    content::{Repository, config, layer},
    front::Front,
    node::{Backend, TestNode},
    program::{command, end, run},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_behind_tls_is_used_if_the_system_trusts_its_certificate() {
    let node = TestNode::start(Backend::Directory, "").await;
    let (base, settings) = (layer(300_000, 1), config("linux", "amd64", ""));
    Repository { node: &node, name: "app" }.push_image("1", &settings, &[&base]).await;
    let front = Front::with_tls(&node).await;
    let arguments = ["--server", front.url(), "app:1"];
    // What the system trusts is another file for this process.
    let trusting = command(&arguments).env("SSL_CERT_FILE", file("ca.pem")).output();
    end(trusting).await.expect(0, &["app:1: warm, 293.0 KiB", "1 of 1 image warm"]);
    assert_eq!(front.requests().len(), 3, "{:#?}", front.requests());
    let told = format!("app:1: manifest 1: {} does not answer: ", front.url());
    let stranger = command(&arguments).env("SSL_CERT_FILE", file("client.pem")).output();
    end(stranger).await.expect(1, &[&told]);
    assert_eq!(front.requests().len(), 3, "{:#?}", front.requests());
    let without_tls = front.url().replace("https://", "http://");
    run(&["--server", &without_tls, "app:1"]).await.expect(1, &["does not answer: "]);
}
