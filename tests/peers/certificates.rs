//! Nodes that show each other certificates.

use std::path::PathBuf;

use millpond::cluster::wire::{CertificateFiles, Error, PeerCertificates, Trust};

use crate::{
    fixture::{THERE, TestPeer, ask, client, secret},
    tap::send,
};

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls")).join(name)
}

/// Shows the certificate with this name, and believes those of an authority.
pub(crate) fn certificates(authority: &str, name: &str) -> Trust {
    let files = CertificateFiles {
        ca_file: file(&format!("{authority}.pem")),
        cert_file: file(&format!("{name}.pem")),
        key_file: file(&format!("{name}.key")),
    };
    Trust::Certificates(PeerCertificates::load(files).unwrap().0)
}

/// Why a node does not answer.
async fn refusal((asked, asking): (Trust, Trust)) -> Error {
    let peer = TestPeer::start(&asked).await;
    let error = client(&asking).ask(peer.peer, &ask(THERE)).await.unwrap_err();
    assert_eq!(peer.asked(), 0, "{error}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused_by_both_sides() {
    for (asked, asking) in [
        // The one that asks does not believe the other.
        (certificates("other-ca", "other"), certificates("peer-ca", "other")),
        // The one that is asked does not believe the other.
        (certificates("peer-ca", "peer"), certificates("peer-ca", "other")),
    ] {
        let error = refusal((asked, asking)).await;
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_clients_only_is_none_of_a_node() {
    let pair = || certificates("ca", "client");
    let error = refusal((pair(), pair())).await;
    assert!(
        matches!(&error, Error::Refused { why, .. } if why.contains("extended key usage")),
        "{error:?}"
    );
    // Nor is one for servers good for asking.
    let error = refusal((pair(), certificates("ca", "server"))).await;
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_no_certificate_is_refused() {
    let peer = TestPeer::start(&certificates("peer-ca", "peer")).await;
    let authority = std::fs::read(file("peer-ca.pem")).unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&authority).unwrap()])
        .resolve("node", peer.peer.address)
        .build()
        .unwrap();
    let url = format!("https://node:{}/v1/hello", peer.peer.address.port());
    let error = anyhow::Error::from(client.get(url).send().await.unwrap_err());
    assert!(format!("{error:#}").contains("CertificateRequired"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_without_tls_is_told_so() {
    let peer = TestPeer::start(&certificates("peer-ca", "peer")).await;
    let answer = send(peer.peer.address, b"GET /v1/hello HTTP/1.1\r\nHost: node\r\n\r\n").await;
    assert!(answer.contains("400 Bad Request") && answer.contains("use https"), "{answer}");
    for trust in [Trust::Loopback, secret("one")] {
        let error = client(&trust).ask(peer.peer, &ask(THERE)).await.unwrap_err();
        assert!(
            matches!(&error, Error::NotUnderstood { told, .. } if told.contains("https")),
            "{error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_tls_to_a_node_without_is_told_so() {
    let error = refusal((secret("one"), certificates("peer-ca", "peer"))).await;
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let load = |ca: &str, cert: &str, key: &str| {
        let (ca_file, cert_file, key_file) = (file(ca), file(cert), file(key));
        let files = CertificateFiles { ca_file, cert_file, key_file };
        PeerCertificates::load(files).unwrap_err().to_string()
    };
    assert!(load("none.pem", "peer.pem", "peer.key").contains("none.pem cannot be read"));
    assert!(
        load("peer.key", "peer.pem", "peer.key").contains("peer.key holds no usable certificate")
    );
    assert!(load("peer-ca.pem", "peer.pem", "peer.pem").contains("peer.pem holds no usable key"));
    assert!(load("peer-ca.pem", "peer.pem", "other.key").contains("cannot be used together"));
}
