//! Requests that no node sends.

use millpond::cluster::wire::{Error, Trust};

use crate::{
    fixture::{TestPeer, client, secret},
    tap::send,
};

async fn answer(peer: &TestPeer, request: &str) -> String {
    send(peer.peer.address, request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_of_the_protocol_is_refused_with_a_clear_text() {
    for trust in [Trust::Loopback, secret("one")] {
        let peer = TestPeer::start(&trust).await;
        let request = "GET /v1/hello HTTP/1.1\r\nHost: node\r\nMillpond-Protocol: 2\r\n\
            Connection: close\r\n\r\n";
        let answer = answer(&peer, request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("version 1 of the protocol is spoken here, not \"2\""), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_part_of_the_protocol_is_named() {
    let peer = TestPeer::start(&Trust::Loopback).await;
    for (request, expected) in [
        ("GET /v1/hello HTTP/1.1\r\n", "the header millpond-protocol is missing"),
        ("GET /v2/ HTTP/1.1\r\nMillpond-Protocol: 1\r\n", "\"/v2/\" with GET"),
        ("GET /v1/calls/echo HTTP/1.1\r\nMillpond-Protocol: 1\r\n", "with GET"),
        ("GET /v1/hello?a HTTP/1.1\r\nMillpond-Protocol: 1\r\n", "\"/v1/hello?a\""),
        ("GET /v1/hello HTTP/1.1\r\nMillpond-Protocol: 1\r\nMillpond-New: 1\r\n", "millpond-new"),
        ("GET /v1/parts/sha256:00/table HTTP/1.1\r\nMillpond-Protocol: 1\r\n", "\"/v1/parts"),
    ] {
        let request = format!("{request}Host: node\r\nConnection: close\r\n\r\n");
        let answer = answer(&peer, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(expected), "{answer}");
    }
    assert_eq!(peer.asked(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_is_too_long_is_refused() {
    let peer = TestPeer::start(&Trust::Loopback).await;
    let question = "x".repeat((64 << 10) + 1);
    let request = format!(
        "POST /v1/calls/echo HTTP/1.1\r\nHost: node\r\nMillpond-Protocol: 1\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{question}",
        question.len()
    );
    let answer = answer(&peer, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("65536 bytes"), "{answer}");
    let sent = client(&Trust::Loopback).call(peer.peer, "echo", question.into()).await;
    assert!(matches!(sent, Err(Error::TooLarge { limit_bytes: 65536, .. })), "{sent:?}");
    assert_eq!(peer.asked(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_are_too_long_are_refused() {
    let peer = TestPeer::start(&Trust::Loopback).await;
    let filler = "x".repeat(20 << 10);
    let request =
        format!("GET /v1/hello HTTP/1.1\r\nHost: node\r\nMillpond-Origin: {filler}\r\n\r\n");
    let answer = answer(&peer, &request).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "a call is named by")]
async fn a_call_without_a_name_is_a_mistake_of_the_caller() {
    let peer = TestPeer::start(&Trust::Loopback).await;
    let _never = client(&Trust::Loopback).call(peer.peer, "../hello", "".into()).await;
}
