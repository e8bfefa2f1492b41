//! Choosing among the platforms of an image.

use crate::{
    content::{Repository, blob, by_digest, by_tag, config, index, layer},
    front::Front,
    node::{Backend, TestNode},
    program::run,
};

on_both_backends! {
    one_platform_of_an_index_is_pulled_alone,
    a_platform_that_is_missing_is_told_and_the_others_are_pulled,
    an_image_without_an_index_is_known_by_its_configuration,
}

async fn one_platform_of_an_index_is_pulled_alone(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let repository = Repository { node: &node, name: "app" };
    let (amd_layer, arm_layer) = (layer(1_000, 1), layer(1_000, 2));
    let (amd, arm) = (config("linux", "amd64", ""), config("linux", "arm64", ""));
    let attestation = config("unknown", "unknown", "");
    let first = repository.push_image("a", &amd, &[&amd_layer]).await;
    let second = repository.push_image("b", &arm, &[&arm_layer]).await;
    let third = repository.push_image("c", &attestation, &[]).await;
    let children =
        [(&first, "linux/amd64"), (&second, "linux/arm64/v8"), (&third, "unknown/unknown")];
    repository.push_manifest("1", &index(&children)).await;

    let front = Front::before(&node).await;
    run(&["--server", front.url(), "--platform", "linux/arm64", "app:1"]).await.expect(0, &[]);
    let mut expected = vec![by_tag("app", "1"), by_digest("app", &second)];
    expected.extend([&arm, &arm_layer].map(|bytes| blob("app", bytes)));
    expected.sort_unstable();
    assert_eq!(front.requests(), expected);
}

async fn a_platform_that_is_missing_is_told_and_the_others_are_pulled(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let repository = Repository { node: &node, name: "app" };
    let (base, amd, arm) =
        (layer(1_000, 1), config("linux", "amd64", ""), config("linux", "arm", ""));
    let first = repository.push_image("a", &amd, &[&base]).await;
    let second = repository.push_image("b", &arm, &[&base]).await;
    let list = index(&[(&first, "linux/amd64"), (&second, "linux/arm/v7")]);
    repository.push_manifest("1", &list).await;

    let front = Front::before(&node).await;
    let platforms = ["--platform", "linux/amd64", "--platform", "linux/s390x"];
    let outcome = run(&[&["--server", front.url()], &platforms[..], &["app:1"]].concat()).await;
    let told = "app:1: not made for linux/s390x; it is made for linux/amd64, linux/arm/v7\n";
    outcome.expect(1, &[told, "app:1: 2 blobs", "0 of 1 image warm, 1 failed: "]);
    let mut expected = vec![by_tag("app", "1"), by_digest("app", &first)];
    expected.extend([&amd, &base].map(|bytes| blob("app", bytes)));
    expected.sort_unstable();
    assert_eq!(front.requests(), expected);
}

async fn an_image_without_an_index_is_known_by_its_configuration(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let repository = Repository { node: &node, name: "app" };
    let (base, settings) = (layer(1_000, 1), config("linux", "amd64", ""));
    repository.push_image("1", &settings, &[&base]).await;

    let front = Front::before(&node).await;
    let outcome = run(&["--server", front.url(), "--platform", "linux/arm64", "app:1"]).await;
    outcome.expect(1, &["app:1: not made for linux/arm64; it is made for linux/amd64\n"]);
    assert!(!front.requests().contains(&blob("app", &base)));
    run(&["--server", front.url(), "--platform", "linux/amd64", "app:1"]).await.expect(0, &[]);
    assert!(front.requests().contains(&blob("app", &base)));

    // An artifact is made for nothing in particular, and so for everything.
    let chart = bytes::Bytes::from_static(br#"{"name":"chart"}"#);
    repository.push_image("chart", &chart, &[&base]).await;
    let arguments = ["--server", front.url(), "--platform", "linux/arm64", "app:chart"];
    run(&arguments).await.expect(0, &["app:chart: 2 blobs"]);
}
