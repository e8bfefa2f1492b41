//! What is pulled of the images on the command line.

use bytes::Bytes;

use crate::{
    content::{
        Repository, blob, blob_path, by_digest, by_tag, config, image, image_with_foreign_layer,
        index, layer, sha256,
    },
    front::Front,
    node::{Backend, TestNode},
    program::run,
};

on_both_backends! {
    every_platform_of_an_index_is_pulled,
    what_images_share_comes_once,
    what_another_repository_has_is_only_asked_for,
    indexes_in_indexes_are_followed,
    foreign_layers_are_left_where_they_are,
    an_image_is_pulled_by_its_digest,
}

async fn every_platform_of_an_index_is_pulled(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let repository = Repository { node: &node, name: "team/app" };
    let (base, tools) = (layer(300_000, 1), layer(5_000, 2));
    let (amd, arm) = (config("linux", "amd64", ""), config("linux", "arm64", ""));
    let first = repository.push_image("amd", &amd, &[&base]).await;
    let second = repository.push_image("arm", &arm, &[&base, &tools]).await;
    let list = index(&[(&first, "linux/amd64"), (&second, "linux/arm64/v8")]);
    repository.push_manifest("1", &list).await;

    let front = Front::before(&node).await;
    let outcome = run(&["--server", front.url(), "team/app:1"]).await;
    outcome.expect(0, &["team/app:1: 4 blobs, 297.", "1 of 1 image warm: 297."]);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[1].starts_with("team/app:1: warm, 297."), "{lines:#?}");
    assert!(!outcome.stderr.contains(['\r', '\x1b']), "{:?}", outcome.stderr);
    let mut expected = vec![
        by_tag("team/app", "1"),
        by_digest("team/app", &first),
        by_digest("team/app", &second),
    ];
    expected.extend([&base, &tools, &amd, &arm].map(|bytes| blob("team/app", bytes)));
    expected.sort_unstable();
    assert_eq!(front.requests(), expected);
}

async fn what_images_share_comes_once(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let repository = Repository { node: &node, name: "app" };
    let (base, tools) = (layer(100_000, 1), layer(5_000, 2));
    let configs = ["1", "2", "3"].map(|tag| config("linux", "amd64", tag));
    for (tag, config) in ["1", "2", "3"].iter().zip(&configs) {
        repository.push_image(tag, config, &[&base, &tools]).await;
    }
    let front = Front::before(&node).await;
    let arguments = ["--server", front.url(), "app:1", "app:2", "app:2", "app:3"];
    run(&arguments).await.expect(0, &["3 of 3 images warm: 102."]);
    let mut expected: Vec<String> = ["1", "2", "3"].map(|tag| by_tag("app", tag)).into();
    expected.extend(configs.iter().chain([&base, &tools]).map(|bytes| blob("app", bytes)));
    expected.sort_unstable();
    assert_eq!(front.requests(), expected);
}

async fn what_another_repository_has_is_only_asked_for(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (base, settings) = (layer(50_000, 1), config("linux", "amd64", ""));
    for name in ["one", "two"] {
        let repository = Repository { node: &node, name };
        repository.push_image("latest", &settings, &[&base]).await;
    }
    let front = Front::before(&node).await;
    run(&["--server", front.url(), "one", "two"]).await.expect(0, &["2 of 2 images warm"]);
    for bytes in [&base, &settings] {
        let requests = front.requests();
        let of_blob: Vec<&String> =
            requests.iter().filter(|line| line.contains(&sha256(bytes))).collect();
        let methods: Vec<&str> = of_blob.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(methods, ["GET", "HEAD"], "{requests:#?}");
    }
}

async fn indexes_in_indexes_are_followed(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let repository = Repository { node: &node, name: "app" };
    let (base, settings) = (layer(1_000, 1), config("linux", "amd64", ""));
    let mut manifest = repository.push_image("image", &settings, &[&base]).await;
    let mut expected = vec![by_digest("app", &manifest)];
    for depth in 1..=5 {
        manifest = index(&[(&manifest, "")]);
        repository.push_manifest(&depth.to_string(), &manifest).await;
        expected.push(by_digest("app", &manifest));
    }
    let front = Front::before(&node).await;
    run(&["--server", front.url(), "app:4"]).await.expect(0, &["app:4: 2 blobs"]);
    expected.truncate(4);
    expected.extend([by_tag("app", "4"), blob("app", &base), blob("app", &settings)]);
    expected.sort_unstable();
    assert_eq!(front.requests(), expected);

    let outcome = run(&["--server", front.url(), "app:5"]).await;
    outcome
        .expect(1, &["app:5: its indexes are more than 4 deep\n", "0 of 1 image warm, 1 failed"]);
}

async fn foreign_layers_are_left_where_they_are(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let repository = Repository { node: &node, name: "app" };
    let (base, settings) = (layer(1_000, 1), config("windows", "amd64", ""));
    let foreign = Bytes::from_static(b"somewhere else");
    repository.push_blobs(&[&base, &settings]).await;
    let manifest = image_with_foreign_layer(&settings, &base, &foreign);
    repository.push_manifest("1", &manifest).await;
    let front = Front::before(&node).await;
    run(&["--server", front.url(), "app:1"]).await.expect(0, &["app:1: 2 blobs"]);
    let mut expected = vec![by_tag("app", "1"), blob("app", &base), blob("app", &settings)];
    expected.sort_unstable();
    assert_eq!(front.requests(), expected);
}

async fn an_image_is_pulled_by_its_digest(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let repository = Repository { node: &node, name: "app" };
    let (base, settings) = (layer(1_000, 1), config("linux", "amd64", ""));
    let manifest = repository.push_image("1", &settings, &[&base]).await;
    let front = Front::before(&node).await;
    let digest = sha256(&manifest);
    let named = format!("app:moved@{digest}");
    let outcome = run(&["--server", front.url(), &named]).await;
    outcome.expect(0, &[&format!("app@{digest}: 2 blobs")]);
    assert!(front.requests().contains(&by_digest("app", &manifest)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_is_the_first_part_of_the_path() {
    let node = TestNode::start(Backend::Directory, "").await;
    let front = Front::before(&node).await;
    let images = ["docker.io/nginx", "docker.io/team/app:1", "ghcr.io/org/app:2", "nginx"];
    run(&[&["--server", front.url()], &images[..]].concat()).await.expect(1, &["4 failed"]);
    let expected = [
        by_tag("docker.io/library/nginx", "latest"),
        by_tag("docker.io/team/app", "1"),
        by_tag("ghcr.io/org/app", "2"),
        by_tag("nginx", "latest"),
    ];
    assert_eq!(front.requests(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_with_a_port_is_one_that_the_daemon_mirrors_under_that_alias() {
    let house = TestNode::start(Backend::Directory, "").await;
    let (base, settings) = (layer(100_000, 1), config("linux", "amd64", ""));
    Repository { node: &house, name: "team/app" }.push_image("1", &settings, &[&base]).await;
    let upstream = format!(
        "upstreams: {{name: house.example, aliases: ['House.example:5000', '[::1]:5000'], \
         url: '{}', plain_http: allow}}",
        house.url()
    );
    let node = TestNode::start(Backend::Directory, &upstream).await;
    let front = Front::before(&node).await;
    let first =
        ["house.example:5000/team/app:1", "[::1]:5000/team/app:1", "house.example/team/app:1"];
    let outcome =
        run(&[&["--server", front.url(), "--concurrency", "1"], &first[..]].concat()).await;
    outcome.expect(0, &["house.example:5000/team/app:1: warm, 97.", "3 of 3 images warm: 97."]);
    let tagged = "/v2/team/app/manifests/1?ns=house.example%3A5000";
    let layer = format!("{}?ns=house.example%3A5000", blob_path("team/app", &base));
    let requests = front.requests();
    assert!(requests.contains(&format!("GET {tagged}")), "{requests:#?}");
    assert!(requests.contains(&format!("GET {layer}")), "{requests:#?}");
    assert!(requests.contains(&by_tag("house.example/team/app", "1")), "{requests:#?}");
    let of_layer = requests.iter().filter(|line| line.contains(&sha256(&base)));
    assert_eq!(of_layer.filter(|line| line.starts_with("GET ")).count(), 1, "{requests:#?}");

    let outcome = run(&["--server", front.url(), "other.example:5000/team/app:1"]).await;
    let told = "404 Not Found, NAME_UNKNOWN: \"other.example:5000\" is not mirrored here";
    outcome.expect(1, &["other.example:5000/team/app:1: manifest 1: ", told]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_for_a_manifest_accepts_every_type_and_has_the_login() {
    let node = TestNode::start(Backend::Directory, "").await;
    let repository = Repository { node: &node, name: "app" };
    let (base, settings) = (layer(10, 1), config("linux", "amd64", ""));
    repository.push_blobs(&[&base, &settings]).await;
    repository.push_manifest("latest", &image(&settings, &[&base])).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "open sesame\n").unwrap();
    let file = file.to_str().unwrap();
    let front = Front::before(&node).await;
    let login = ["--username", "aladdin", "--password-file", file];
    run(&[&["--server", front.url()], &login[..], &["app"]].concat()).await.expect(0, &[]);
    // `printf 'aladdin:open sesame' | base64`
    let basic = "Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    let manifest = "/v2/app/manifests/latest";
    for path in [manifest, &blob_path("app", &base), &blob_path("app", &settings)] {
        assert_eq!(front.headers_of(path, "authorization"), [basic], "{path}");
    }
    let accepted = &front.headers_of(manifest, "accept")[0];
    for media_type in millpond::oci::MediaType::ALL {
        assert!(accepted.contains(media_type.name()), "{media_type} is not in {accepted}");
    }
}
