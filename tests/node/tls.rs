//! TLS on the registry's own addresses.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use http::Version;
use millpond::{
    config::Config,
    runtime::{Environment, Shutdown},
    server::Server,
};
use reqwest::{Certificate, Client, ClientBuilder, tls};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinHandle};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    certificates::file,
    content::{pattern, sha256},
    node::{Backend, TestNode},
    raw::{Raw, eventually},
};

on_both_backends! {
    a_registry_behind_tls_is_pushed_to_and_pulled_from,
    tls_1_2_and_1_3_are_spoken,
    locations_say_how_the_client_came,
    who_speaks_no_tls_is_told_in_plain_text,
    a_refusal_reaches_a_client_that_is_still_sending,
    a_handshake_that_does_not_end_is_closed,
    a_handshake_that_is_none_is_closed,
    a_client_that_is_silent_after_its_handshake_is_closed,
    a_client_that_never_ends_its_handshake_holds_up_nobody,
    health_and_metrics_have_no_tls,
}

/// The beginning of a ClientHello.
const HELLO: [u8; 13] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0xab, 0xcd];

/// In which a new certificate is promised to be in use.
const MINUTE: Duration = Duration::from_secs(60);

/// Section `api`, with a certificate for 127.0.0.1 and `more`.
fn settings(more: &str) -> String {
    format!("api: {{tls: {}{more}}}", files(&file("server.pem"), &file("server.key")))
}

fn files(certificate: &Path, key: &Path) -> String {
    format!("{{cert_file: '{}', key_file: '{}'}}", certificate.display(), key.display())
}

/// A client that trusts the registry's authority and no other.
fn trusting() -> ClientBuilder {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authority = Certificate::from_pem(&fs::read(file("ca.pem")).unwrap()).unwrap();
    Client::builder().no_proxy().tls_certs_only([authority])
}

fn client(version: Version) -> Client {
    // HTTP/2 is what both sides prefer.
    let builder = if version == Version::HTTP_2 { trusting() } else { trusting().http1_only() };
    builder.build().unwrap()
}

fn url(node: &TestNode, path: &str) -> String {
    format!("{}{path}", node.url().replace("http://", "https://"))
}

async fn a_registry_behind_tls_is_pushed_to_and_pulled_from(backend: Backend) {
    let node = TestNode::start(backend, &settings("")).await;
    for (seed, version) in [(1, Version::HTTP_11), (2, Version::HTTP_2)] {
        let (client, bytes) = (client(version), pattern(3 << 20, seed));
        let digest = sha256(&bytes);
        let push = url(&node, &format!("/v2/a/blobs/uploads/?digest={digest}"));
        let pushed = client.post(push).body(bytes.clone()).send().await.unwrap();
        assert_eq!((pushed.status().as_u16(), pushed.version()), (201, version));
        let get = client.get(url(&node, &format!("/v2/a/blobs/{digest}")));
        let part = get.try_clone().unwrap().header("range", "bytes=99999-2000000");
        let (whole, part) = (get.send().await.unwrap(), part.send().await.unwrap());
        assert_eq!((whole.status().as_u16(), part.status().as_u16()), (200, 206));
        assert_eq!(whole.headers()["content-length"], "3145728");
        assert!(whole.bytes().await.unwrap() == bytes, "other bytes by {version:?}");
        let part = part.bytes().await.unwrap();
        assert!(part == bytes.slice(99_999..=2_000_000), "other bytes by {version:?}");
    }
}

async fn tls_1_2_and_1_3_are_spoken(backend: Backend) {
    let node = TestNode::start(backend, &settings("")).await;
    for version in [tls::Version::TLS_1_2, tls::Version::TLS_1_3] {
        let client = trusting().tls_version_min(version).tls_version_max(version);
        let answer = client.build().unwrap().get(url(&node, "/v2/")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
    }
}

async fn locations_say_how_the_client_came(backend: Backend) {
    let settings = settings(", location: absolute, trusted_proxies: [127.0.0.1]");
    let node = TestNode::start(backend, &settings).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let begin = client(version).post(url(&node, "/v2/a/blobs/uploads/"));
        let begin = begin.header("content-length", "0");
        let through_proxy = begin.try_clone().unwrap().header("x-forwarded-proto", "http");
        for (request, base) in [(begin, url(&node, "")), (through_proxy, node.url().to_owned())] {
            let begun = request.send().await.unwrap();
            let location = begun.headers()["location"].to_str().unwrap();
            assert!(location.starts_with(&format!("{base}/v2/a/")), "{location} by {version:?}");
        }
    }
}

async fn who_speaks_no_tls_is_told_in_plain_text(backend: Backend) {
    let node = TestNode::start(backend, &settings("")).await;
    for request in ["GET /v2/ HTTP/1.1\r\nhost: r\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "?"]
    {
        let mut raw = Raw::connect(&node).await;
        raw.send(request).await;
        let told = raw.rest().await;
        assert!(told.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{request:?}: {told:?}");
        assert!(told.ends_with("to an HTTPS server; use https.\n"), "{request:?}: {told:?}");
    }
    // And as clients understand it.
    let answer = node.get("/v2/").expect(400).await;
    assert_eq!(answer.header("content-type"), "text/plain");
    assert!(answer.body.ends_with(b"use https.\n"), "{answer:?}");
}

async fn a_refusal_reaches_a_client_that_is_still_sending(backend: Backend) {
    let node = TestNode::start(backend, &settings("")).await;
    let bytes = pattern(500_000, 1);
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
    node.post(&target).bytes(bytes).expect(400).await;
}

async fn a_handshake_that_does_not_end_is_closed(backend: Backend) {
    let node = TestNode::start(backend, &settings(", header_timeout: 100ms")).await;
    for begin in [HELLO.as_slice(), &HELLO[..1], &[]] {
        let mut raw = Raw::connect(&node).await;
        raw.send(begin).await;
        assert_eq!(raw.rest().await, "", "after {begin:?}");
    }
}

async fn a_handshake_that_is_none_is_closed(backend: Backend) {
    let node = TestNode::start(backend, &settings("")).await;
    let mut raw = Raw::connect(&node).await;
    raw.send([0x16; 600]).await;
    // At most an alert, of which no byte is text of an answer.
    let told = raw.rest().await;
    assert!(told.len() < 20 && !told.contains("HTTP"), "{told:?}");
}

async fn a_client_that_is_silent_after_its_handshake_is_closed(backend: Backend) {
    let node = TestNode::start(backend, &settings(", header_timeout: 100ms")).await;
    for protocols in [&[][..], &["h2"], &["http/1.1"]] {
        let mut secured = handshake(&node, protocols).await;
        let mut received = Vec::new();
        let closed = tokio::time::timeout(MINUTE, secured.read_to_end(&mut received)).await;
        assert!(closed.is_ok() && received.is_empty(), "{protocols:?}: {closed:?} {received:?}");
    }
}

/// A connection by TLS on which nothing was said yet.
async fn handshake(node: &TestNode, protocols: &[&str]) -> TlsStream<TcpStream> {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = ClientConfig::builder().with_root_certificates(trusted);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let address = &node.url()["http://".len()..];
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap()
}

async fn a_client_that_never_ends_its_handshake_holds_up_nobody(backend: Backend) {
    let node = TestNode::start(backend, &settings("")).await;
    let mut silent = Vec::new();
    for number in 0..20 {
        let mut raw = Raw::connect(&node).await;
        raw.send(&HELLO[..number % HELLO.len()]).await;
        silent.push(raw);
    }
    let answer = client(Version::HTTP_2).get(url(&node, "/v2/")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(silent);
}

async fn health_and_metrics_have_no_tls(backend: Backend) {
    let node = TestNode::start(backend, &settings("")).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        node.get(&format!("{}{path}", node.admin_url())).expect(200).await;
    }
}

/// A daemon on a directory, for what a [`TestNode`] does not tell or let happen.
struct Daemon {
    addresses: Vec<SocketAddr>,
    shutdown: Shutdown,
    served: JoinHandle<usize>,
    _folder: TempDir,
}

/// No variables, and no files of secrets.
struct Nothing;

impl Environment for Nothing {
    fn variables(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn read_file(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Daemon {
    async fn start(tls: &str, upstreams: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let text = format!(
            "api: {{listen: '127.0.0.1:0', admin: '127.0.0.1:0', tls: {tls}}}\n\
             storage: {{directory: {{path: '{}'}}}}\nupstreams: {upstreams}\n",
            folder.path().display()
        );
        let config = Config::parse("the test's settings", &text, &Nothing).unwrap().config;
        let shutdown = Shutdown::new();
        let server = Server::bind(config, shutdown.clone()).await.unwrap();
        let addresses = server.addresses().unwrap();
        Self { addresses, shutdown, served: tokio::spawn(server.run()), _folder: folder }
    }

    async fn stop(self) {
        self.shutdown.begin();
        assert_eq!(self.served.await.unwrap(), 0, "requests were cut off");
    }
}

#[tokio::test]
async fn addresses_of_upstreams_speak_tls_too() {
    let tls = files(&file("server.pem"), &file("server.key"));
    let daemon = Daemon::start(&tls, "[{name: quay.io, listen: '127.0.0.1:0'}]").await;
    assert_eq!(daemon.addresses.len(), 2);
    let client = client(Version::HTTP_11);
    for address in &daemon.addresses {
        let answer = client.get(format!("https://{address}/v2/")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{address}");
        let refused = client.get(format!("http://{address}/v2/")).send().await.unwrap();
        assert_eq!(refused.status(), 400, "{address}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let folder = TempDir::new().unwrap();
    let (certificate, key) = (folder.path().join("tls.pem"), folder.path().join("tls.key"));
    let put = |name: &str| {
        fs::copy(file(&format!("{name}.pem")), &certificate).unwrap();
        fs::copy(file(&format!("{name}.key")), &key).unwrap();
    };
    // This one is not for servers, so that nobody wants to talk to who shows it.
    put("client");
    let daemon = Daemon::start(&files(&certificate, &key), "[]").await;
    let url = format!("https://{}/v2/", daemon.addresses[0]);
    let get = || async { client(Version::HTTP_11).get(&url).send().await.ok() };
    assert!(get().await.is_none());
    put("server");
    tokio::time::pause();
    tokio::time::advance(MINUTE).await;
    tokio::time::resume();
    let answer = eventually("the new certificate is in use", get).await;
    assert_eq!(answer.status(), 200);
    daemon.stop().await;
}
