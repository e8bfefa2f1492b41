//! Requests that cannot be answered: what the client is told, how soon, and that nothing comes of it.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use tokio::net::TcpListener;

use crate::{
    fake_upstream::{Access, FakeUpstream, Fault, Script, Tls, TokenServer},
    fixture::{
        Image, Mirror, NAME, REPOSITORY, assert_layer, fills, header, node, put_image, read,
        read_text, requests, upstream_requests,
    },
    node::Backend,
};

/// More than any number of repetitions takes, and less than forever.
const BOUND: Duration = Duration::from_secs(20);

/// Short waits for an upstream.
const IMPATIENT: &str = "response_timeout: 300ms, stall_timeout: 300ms";

/// Everything that can be asked of a repository.
fn questions(image: &Image) -> [String; 5] {
    [
        "manifests/v1".to_owned(),
        format!("manifests/{}", image.digest),
        image.layer_path(),
        "tags/list".to_owned(),
        format!("referrers/{}", image.digest),
    ]
}

/// The status and the body of an answer, which must come in time.
async fn answer_in_time<U>(mirror: &Mirror<U>, path: &str) -> (u16, String) {
    let asked = tokio::time::timeout(BOUND, async { read_text(mirror.get(path).await).await });
    asked.await.unwrap_or_else(|_| panic!("{path}: no answer in time"))
}

/// Panics unless every question gets this status, in time and with these words, and nothing is kept.
async fn assert_refused<U>(mirror: &Mirror<U>, image: &Image, status: u16, words: &[&str]) {
    let before = mirror.files();
    let paths = questions(image);
    for (path, answer) in
        paths.iter().zip(join_all(paths.iter().map(|path| answer_in_time(mirror, path))).await)
    {
        assert_eq!(answer.0, status, "{path}: {}", answer.1);
        assert!(words.iter().all(|word| answer.1.contains(word)), "{path}: {}", answer.1);
    }
    assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 2);
    assert_eq!(mirror.metric(&requests("blob", "failed")).await, 1);
    assert_eq!(mirror.files(), before);
}

/// Panics unless the image can be had.
async fn assert_pulled(mirror: &Mirror, image: &Image) {
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, image.manifest.clone()));
    assert_layer(mirror.get(&image.layer_path()).await, image).await;
    mirror.assert_kept(image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_mirrored_is_unknown_whatever_is_asked_of_it() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 1000);
    let before = mirror.files();
    let namespaces =
        ["no.example", "", "..%2F..", "other.example%2Fteam", "%00", "%FF", "%0d%0aa: b"];
    for namespace in namespaces {
        for path in questions(&image) {
            let url = format!("{}/v2/{REPOSITORY}/{path}?ns={namespace}", mirror.node.url());
            let (status, body) =
                read_text(mirror.node.http().get(&url).send().await.unwrap()).await;
            assert_eq!((status, body.contains("NAME_UNKNOWN")), (404, true), "{url}: {body}");
            let names_it = namespace.contains('%') || body.contains(namespace);
            assert!(names_it, "{url}: {body}");
            let has_head = path.starts_with("manifests/") || path.starts_with("blobs/");
            if has_head {
                let head = mirror.node.http().head(&url).send().await.unwrap();
                assert_eq!(head.status(), 404, "{url}");
            }
        }
    }
    assert!(mirror.upstream.requests().is_empty(), "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.files(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_are_not_allowed_are_unknown_and_not_asked_for() {
    let mirror = Mirror::start(Backend::Directory, "repositories: {allow: ['library/**']}").await;
    let image = mirror.put_image("v1", 1000);
    let before = mirror.files();
    for path in questions(&image) {
        let by_ns = format!("{}/v2/{REPOSITORY}/{path}?ns={NAME}", mirror.node.url());
        for url in [mirror.url_of(REPOSITORY, &path), by_ns] {
            let (status, body) =
                read_text(mirror.node.http().get(&url).send().await.unwrap()).await;
            let tells = body.contains("NAME_UNKNOWN") && body.contains(REPOSITORY);
            assert_eq!((status, tells), (404, true), "{url}: {body}");
        }
    }
    assert!(mirror.upstream.requests().is_empty(), "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.files(), before);
    mirror.upstream.put_blob("library/app", image.layer_bytes.clone());
    let allowed = mirror.url_of("library/app", &image.layer_path());
    assert_layer(mirror.node.http().get(allowed).send().await.unwrap(), &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_given_no_token_is_told_that_access_is_denied() {
    for settings in ["", "username: me, password: wrong"] {
        let mirror = Mirror::start(Backend::Directory, settings).await;
        let image = mirror.put_image("v1", 1000);
        let server = TokenServer { login: Some(("me", "right")), ..Default::default() };
        mirror.upstream.set_access(Access::Token(server));
        assert_refused(&mirror, &image, 403, &["\"DENIED\"", NAME]).await;
        assert_eq!(mirror.metric(&fills("denied")).await, 1);
        assert!(mirror.metric(&upstream_requests("token", "denied")).await > 0);
        mirror.upstream.set_access(Access::Open);
        assert_pulled(&mirror, &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_is_unwell_makes_nobody_wait() {
    let cases = [
        (Fault::Status(500), 502, "status"),
        (Fault::Disconnect, 502, "connect"),
        (Fault::Hang, 504, "timeout"),
        (Fault::StallAfter(1), 504, "stalled"),
        // What comes is no JSON then.
        (Fault::WrongBytes, 502, "protocol"),
    ];
    let cases = cases.map(|(fault, status, outcome)| async move {
        let mirror = Mirror::start(Backend::Directory, IMPATIENT).await;
        let image = mirror.put_image("v1", 1000);
        mirror.upstream.set_access(Access::Token(TokenServer::default()));
        mirror.upstream.script(Script::new(fault).on("GET /token"));
        assert_refused(&mirror, &image, status, &[NAME]).await;
        assert_eq!(mirror.metric(&fills(outcome)).await, 1, "{outcome}");
        assert!(mirror.metric(&upstream_requests("token", outcome)).await > 0, "{outcome}");
        mirror.upstream.clear_scripts();
        mirror.upstream.release();
        assert_pulled(&mirror, &image).await;
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_nobody_named_is_not_asked() {
    let mirror = Mirror::start(Backend::Directory, "username: me, password: mine").await;
    let image = mirror.put_image("v1", 1000);
    let stranger = FakeUpstream::start().await;
    let realm = Some(format!("{}/token", stranger.url().replace("127.0.0.1", "localhost")));
    mirror.upstream.set_access(Access::Token(TokenServer { realm, ..Default::default() }));
    assert_refused(&mirror, &image, 502, &[NAME, "auth_hosts"]).await;
    assert_eq!(mirror.metric(&fills("realm")).await, 1);
    assert!(stranger.requests().is_empty(), "{:?}", stranger.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_told_of() {
    let upstream = FakeUpstream::start_with(Tls::Anybody).await;
    let node = node(Backend::Directory, upstream.url(), "", "").await;
    let mirror = Mirror { upstream, node };
    let image = mirror.put_image("v1", 1000);
    assert_refused(&mirror, &image, 502, &[NAME, "trusted"]).await;
    assert_eq!(mirror.metric(&fills("tls")).await, 1);
    assert!(mirror.metric(&upstream_requests("manifest", "tls")).await > 0);
    assert!(mirror.upstream.requests().is_empty(), "{:?}", mirror.upstream.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_an_upstream_that_says_nothing() {
    let mirror = Mirror::start(Backend::Directory, IMPATIENT).await;
    let image = mirror.put_image("v1", 1000);
    mirror.upstream.script(Script::new(Fault::Hang));
    assert_refused(&mirror, &image, 504, &[NAME]).await;
    assert_eq!(mirror.metric(&fills("timeout")).await, 1);
    for kind in ["manifest", "blob", "tags", "referrers"] {
        assert!(mirror.metric(&upstream_requests(kind, "timeout")).await > 0, "{kind}");
    }
    for path in [&questions(&image)[0], &image.layer_path()] {
        let head = tokio::time::timeout(BOUND, mirror.ask(Method::HEAD, path)).await;
        assert_eq!(head.expect("an answer in time").status(), 504, "{path}");
    }
    mirror.upstream.clear_scripts();
    mirror.upstream.release();
    assert_pulled(&mirror, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_connection_on_which_nothing_ever_happens() {
    for scheme in ["http", "https"] {
        // The system takes connections for it, and so does nobody else.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}", silent.local_addr().unwrap());
        let node = node(Backend::Directory, &url, IMPATIENT, "").await;
        let image = put_image(&FakeUpstream::start().await, "v1", 1000);
        let mirror = Mirror { upstream: silent, node };
        assert_refused(&mirror, &image, 504, &[NAME]).await;
        assert_eq!(mirror.metric(&fills("timeout")).await, 1, "{scheme}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_small_answer_that_takes_forever() {
    // Silence is too long for one, and all of it together for the other.
    let faults = [Fault::StallAfter(10), Fault::Slow(1, Duration::from_millis(100))];
    let cases = faults.map(|fault| async move {
        let mirror = Mirror::start(Backend::Directory, IMPATIENT).await;
        let image = mirror.put_image("v1", 1000);
        mirror.upstream.script(Script::new(fault.clone()));
        let before = mirror.files();
        let [by_tag, by_digest, _, tags, referrers] = questions(&image);
        for path in [by_tag, by_digest, tags, referrers] {
            let (status, body) = answer_in_time(&mirror, &path).await;
            assert_eq!((status, body.contains(NAME)), (504, true), "{fault:?} {path}: {body}");
        }
        assert_eq!(mirror.metric(&requests("manifest", "failed")).await, 2, "{fault:?}");
        assert_eq!(mirror.files(), before, "{fault:?}");
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_about_its_limit_is_shown_and_heeded() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let (first, second) = (mirror.put_image("v1", 1000), mirror.put_image("other", 2000));
    let says = |name, value: &str| {
        mirror.upstream.script(Script::new(Fault::Header(name, format!("{value};w=21600"))));
    };
    says("ratelimit-limit", "100");
    says("ratelimit-remaining", "0");
    assert_eq!(mirror.get("manifests/v1").await.status(), 200);
    let gauge = |name: &str| format!("millpond_upstream_ratelimit_{name}{{upstream=\"{NAME}\"}}");
    assert_eq!(mirror.metric(&gauge("limit")).await, 100);
    // A gauge that is not there is 0 as well.
    let told = format!("{} 0", gauge("remaining"));
    assert!(mirror.metrics().await.lines().any(|line| line == told), "{told} is not there");
    // It would answer, and count that.
    let answer = mirror.get("manifests/other").await;
    let seconds: u64 = header(&answer, "retry-after").parse().unwrap();
    assert!((100..=216).contains(&seconds), "{seconds}");
    let (status, body) = read_text(answer).await;
    assert_eq!((status, body.contains("TOOMANYREQUESTS")), (429, true), "{body}");
    assert_eq!(mirror.asked("GET", "manifests/other"), 0);
    assert_eq!(mirror.metric(&upstream_requests("manifest", "paused")).await, 1);
    // What is held and what is not counted can be had.
    assert_eq!(read(mirror.get("manifests/v1").await).await, (200, first.manifest.clone()));
    assert_layer(mirror.get(&second.layer_path()).await, &second).await;
}
