//! Nodes that know each other by a secret, and somebody between them who does not know it.

use bytes::Bytes;
use millpond::cluster::{
    Peer,
    wire::{Answer, CallAnswer, Error, Trust},
};

use crate::{
    answers::collect,
    fixture::{REFERRED, THERE, TestPeer, ask, ask_table, client, node, secret},
    tap::{Change, Tap, send},
};

fn refusal(error: &Error) -> &str {
    match error {
        Error::Refused { why, .. } => why,
        other => panic!("a refusal is expected, not {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_the_secret_is_refused() {
    let peer = TestPeer::start(&secret("one")).await;
    for trust in [secret("another"), Trust::Loopback] {
        let error = client(&trust).ask(peer.peer, &ask(THERE)).await.unwrap_err();
        assert!(refusal(&error).contains("not sealed with the secret"), "{error}");
        let error = client(&trust).call(peer.peer, "echo", Bytes::new()).await.unwrap_err();
        assert!(refusal(&error).contains("not sealed with the secret"), "{error}");
    }
    assert_eq!(peer.asked(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_know_the_secret_is_not_believed() {
    for trust in [secret("another"), Trust::Loopback] {
        let peer = TestPeer::start(&trust).await;
        let error = client(&secret("one")).ask(peer.peer, &ask(THERE)).await.unwrap_err();
        assert!(refusal(&error).contains("not sealed"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_captured_is_refused_when_it_is_sent_again() {
    let (peer, client) = (TestPeer::start(&secret("one")).await, client(&secret("one")));
    let tap = Tap::to(peer.peer.address).await;
    client.call(node(1, tap.address), "echo", "a question".into()).await.unwrap();
    let asked = String::from_utf8(tap.asked()).unwrap();
    let requests: Vec<&str> = asked.split_inclusive("a question").collect();
    assert_eq!((requests.len(), peer.asked()), (2, 1), "the clock was learnt first: {asked}");

    let answer = send(peer.peer.address, requests[1].as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("been here before"), "{answer}");
    let answer = send(peer.peer.address, requests[0].as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("the time"), "{answer}");
    assert_eq!(peer.asked(), 1);

    let (address, other) = (peer.peer.address, TestPeer::start(&secret("one")).await);
    let answer = send(other.peer.address, requests[1].as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "it was for another node: {answer}");
    peer.stop().await;
    let again = TestPeer::start_at(address, &secret("one")).await;
    let answer = send(address, requests[1].as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "not after a restart either: {answer}");
    assert_eq!((other.asked(), again.asked()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_changed_is_refused() {
    let (peer, trust) = (TestPeer::start(&secret("one")).await, secret("one"));
    let changes: [Change; 6] = [
        |asked| asked.replace("/0 HTTP", "/1 HTTP"),
        |asked| asked.replace("role: owner", "role: holder"),
        |asked| asked.replace("10.0.0.2:5003", "10.0.0.9:5003"),
        |asked| asked.replace("millpond-hop: 1\r\n", ""),
        |asked| asked.replace("\r\n\r\n", "\r\nrange: bytes=5-\r\n\r\n"),
        |asked| asked.replace("\r\n\r\n", "\r\nmillpond-hop: 1\r\n\r\n"),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let tap = Tap::changing(peer.peer.address, (change, str::to_owned)).await;
        let error = client(&trust).ask(node(1, tap.address), &ask(THERE)).await.unwrap_err();
        assert!(refusal(&error).contains("not sealed"), "change {number}: {error}");
    }
    let change: Change = |asked| asked.replace("a question", "a quest1on");
    let tap = Tap::changing(peer.peer.address, (change, str::to_owned)).await;
    let error = client(&trust).call(node(1, tap.address), "echo", "a question".into()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("another digest than is announced"), "{error}");
    assert_eq!(peer.asked(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_changed_is_not_believed() {
    let (peer, trust) = (TestPeer::start(&secret("one")).await, secret("one"));
    let changes: [Change; 4] = [
        |answer| answer.replace("10.0.0.2:5003", "10.0.0.9:5003"),
        |answer| answer.replace("300 Multiple Choices", "404 Not Found"),
        |answer| {
            answer.replace("millpond-view: 000000000000000e", "millpond-view: 000000000000000f")
        },
        |answer| answer.replace("millpond-clock: ", "millpond-clock: 0"),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let tap = Tap::changing(peer.peer.address, (str::to_owned, change)).await;
        let client = client(&trust);
        let error = client.ask(node(1, tap.address), &ask(REFERRED)).await.unwrap_err();
        refusal(&error);
        assert!(tap.count(401) == 1, "change {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_or_an_answer_with_other_bytes_ends_in_an_error() {
    let (peer, client) = (TestPeer::start(&secret("one")).await, client(&secret("one")));
    // The table is full of this byte.
    let change: Change = |answer| answer.replacen("\u{7}\u{7}\u{7}", "\u{7}\u{8}\u{7}", 1);
    let tap = Tap::changing(peer.peer.address, (str::to_owned, change)).await;
    let answered = client.ask(node(1, tap.address), &ask_table()).await.unwrap();
    let Answer::Bytes { body, length, .. } = answered.answer else { panic!("there is a table") };
    let pieces: Vec<_> = futures_util::StreamExt::collect(body).await;
    let received: usize = pieces.iter().flatten().map(Bytes::len).sum();
    assert!((received as u64) < length, "the end is kept back");
    assert!(matches!(pieces.last(), Some(Err(Error::Protocol { .. }))));

    let change: Change = |answer| answer.replace("an answer", "an ans1er");
    let tap = Tap::changing(peer.peer.address, (str::to_owned, change)).await;
    let error = client.call(node(1, tap.address), "echo", "an answer".into()).await;
    assert!(matches!(error, Err(Error::Protocol { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_started_anew_costs_one_question_more() {
    let trust = secret("one");
    let (mut peer, client) = (TestPeer::start(&trust).await, client(&trust));
    let address = peer.peer.address;
    let tap = Tap::to(address).await;
    let through = Peer { address: tap.address, ..peer.peer };
    for round in 1..=3 {
        for _ in 0..3 {
            collect(client.ask(through, &ask(THERE)).await.unwrap()).await;
        }
        assert_eq!((tap.count(401), peer.asked()), (round, 3));
        peer.stop().await;
        peer = TestPeer::start_at(address, &trust).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_question_may_be_a_long_one() {
    let (peer, trust) = (TestPeer::start(&secret("one")).await, secret("one"));
    let question = Bytes::from(vec![5; 64 << 10]);
    for _ in 0..30 {
        let answered = client(&trust).call(peer.peer, "echo", question.clone()).await.unwrap();
        assert!(answered.answer == CallAnswer::Answered(question.clone()));
    }
}
