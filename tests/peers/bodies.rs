//! Bodies that do not come as they should, and nodes that are not there.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, poll};
use millpond::{
    cluster::wire::{Answer, Error, PeerClient, Trust},
    runtime::Tasks,
};
use tokio::{net::TcpListener, time::timeout};

use crate::{
    answers::collect,
    certificates::certificates,
    fixture::{
        BREAKING, DEADLINE, LATE, PART_BYTES, SILENT, THERE, TestPeer, ask, client, node, secret,
    },
    tap::Tap,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_fails_in_the_middle_ends_in_an_error() {
    for trust in [Trust::Loopback, certificates("peer-ca", "peer")] {
        let (peer, client) = (TestPeer::start(&trust).await, client(&trust));
        let answered = client.ask(peer.peer, &ask(BREAKING)).await.unwrap();
        let Answer::Bytes { length: PART_BYTES, mut body, .. } = answered.answer else {
            panic!("bytes are announced");
        };
        let mut received = 0;
        let error = loop {
            match body.next().await.expect("no clean end") {
                Ok(bytes) => received += bytes.len(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Broken { .. }) && error.is_retryable(), "{error}");
        assert!(received <= 1 << 20 && body.next().await.is_none(), "{received} bytes");
    }
}

#[tokio::test]
async fn the_head_comes_before_the_first_byte() {
    let (peer, client) = (TestPeer::start(&Trust::Loopback).await, client(&Trust::Loopback));
    let answered = timeout(DEADLINE, client.ask(peer.peer, &ask(LATE))).await;
    let Answer::Bytes { length: PART_BYTES, mut body, .. } = answered.unwrap().unwrap().answer
    else {
        panic!("bytes are announced");
    };
    assert!(poll!(body.next()).is_pending());
}

#[tokio::test]
async fn a_silent_node_is_given_up_and_is_not_dead() {
    let peer = TestPeer::start(&Trust::Loopback).await;
    let client = PeerClient::new(Trust::Loopback, Duration::from_millis(50), Tasks::new());
    let error = client.ask(peer.peer, &ask(SILENT)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }) && !error.is_dead(), "{error}");
}

#[tokio::test]
async fn a_question_that_is_given_up_leaves_no_trace() {
    let (peer, client) = (TestPeer::start(&Trust::Loopback).await, client(&Trust::Loopback));
    for _ in 0..10 {
        let silent = ask(SILENT);
        let asking = client.ask(peer.peer, &silent);
        assert!(timeout(Duration::from_millis(10), asking).await.is_err());
    }
    collect(client.ask(peer.peer, &ask(THERE)).await.unwrap()).await;
}

#[tokio::test]
async fn a_body_of_which_nothing_comes_is_given_up() {
    let (peer, client) = (TestPeer::start(&Trust::Loopback).await, client(&Trust::Loopback));
    let answered = client.ask(peer.peer, &ask(LATE)).await.unwrap();
    let Answer::Bytes { mut body, .. } = answered.answer else { panic!("bytes are announced") };
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let error = body.next().await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Broken { source, .. } if source.is::<io::Error>()), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_node_that_is_not_there_is_dead() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = node(1, listener.local_addr().unwrap());
    drop(listener);
    let error = client(&Trust::Loopback).ask(gone, &ask(THERE)).await.unwrap_err();
    assert!(error.is_dead() && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn somebody_else_at_the_address_is_told_from_a_node() {
    async fn serve(listener: TcpListener, answer: &'static str) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _read = stream.read(&mut [0; 4096]).await;
            let _told = stream.write_all(answer.as_bytes()).await;
        }
    }
    for (answer, expected) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "millpond-protocol is missing"),
        ("HTTP/1.1 204 No Content\r\nMillpond-Protocol: 7\r\n\r\n", "not \"7\""),
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", "what it was asked: no"),
        ("SSH-2.0-OpenSSH\r\n", "broke off"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = node(1, listener.local_addr().unwrap());
        let serving = tokio::spawn(serve(listener, answer));
        let error =
            anyhow::Error::from(client(&Trust::Loopback).ask(peer, &ask(THERE)).await.unwrap_err());
        assert!(format!("{error:#}").contains(expected), "{error:#}");
        serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_used_again_and_not_after_a_body_was_left() {
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    let (peer, client) = (TestPeer::start(&Trust::Loopback).await, client(&Trust::Loopback));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let counting = node(1, listener.local_addr().unwrap());
    let counter = tokio::spawn(count(listener, peer.peer.address, &CONNECTIONS));
    for _ in 0..5 {
        collect(client.ask(counting, &ask(THERE)).await.unwrap()).await;
        client.call(counting, "echo", Bytes::new()).await.unwrap();
    }
    assert_eq!(CONNECTIONS.load(Ordering::SeqCst), 1);
    drop(client.ask(counting, &ask(LATE)).await.unwrap());
    client.call(counting, "echo", Bytes::new()).await.unwrap();
    assert_eq!(CONNECTIONS.load(Ordering::SeqCst), 2);
    client.close();
    counter.abort();
}

/// Passes connections on, and counts them.
async fn count(listener: TcpListener, to: SocketAddr, connections: &'static AtomicUsize) {
    while let Ok((mut near, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_dropped_closes_its_connection() {
    let (peer, client) = (TestPeer::start(&secret("one")).await, client(&secret("one")));
    drop(client.ask(peer.peer, &ask(LATE)).await.unwrap());
    client.close();
    // Nothing else would end the answer that waits for its first byte.
    timeout(DEADLINE, peer.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_client_that_is_closed() {
    let (peer, tasks) = (TestPeer::start(&Trust::Loopback).await, Tasks::new());
    let tap = Tap::to(peer.peer.address).await;
    let client = PeerClient::new(Trust::Loopback, DEADLINE, tasks.clone());
    client.call(node(1, tap.address), "echo", Bytes::new()).await.unwrap();
    client.close();
    assert_eq!(tasks.finish(DEADLINE).await, 0);
}
