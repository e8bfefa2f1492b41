//! Every answer arrives as it was given, whatever the nodes know each other by.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use millpond::cluster::{
    Epoch, NodeId,
    wire::{Answer, Answered, Ask, CallAnswer, PartBody, PeerClient, Trust},
};

use crate::{
    certificates::certificates,
    fixture::{
        BLOB_BYTES, BUSY, EMPTY, FAILED, FAILED_FOR_GOOD, PART_BYTES, PASSED, REFERRED, THERE,
        TestPeer, UNKNOWN, ask, ask_table, client, part_bytes, referred, secret, table,
    },
};

pub(crate) async fn collect(answered: Answered<Answer<PartBody>>) -> Bytes {
    let Answer::Bytes { length, body, .. } = answered.answer else {
        panic!("bytes are expected, not {answered:?}");
    };
    let bytes: BytesMut = body.try_collect().await.unwrap();
    assert_eq!(bytes.len() as u64, length);
    bytes.freeze()
}

fn all_trusts() -> [Trust; 3] {
    [Trust::Loopback, secret("one"), certificates("peer-ca", "peer")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_from_any_offset() {
    for trust in all_trusts() {
        let (peer, client) = (TestPeer::start(&trust).await, client(&trust));
        for offset in [0, 1, 1 << 20, PART_BYTES - 1] {
            let asked = Ask { offset, ..ask(THERE) };
            let answered = client.ask(peer.peer, &asked).await.unwrap();
            assert_eq!((answered.node, answered.epoch), (NodeId::new(1), Epoch::new(0xe)));
            assert!(matches!(answered.answer, Answer::Bytes { blob_bytes: BLOB_BYTES, .. }));
            let bytes = collect(answered).await;
            assert!(bytes == part_bytes()[offset as usize..], "from {offset}: {trust:?}");
        }
        for offset in [0, 5] {
            let asked = Ask { offset, ..ask_table() };
            let answered = client.ask(peer.peer, &asked).await.unwrap();
            assert!(collect(answered).await == table().slice(offset as usize..), "{trust:?}");
        }
        peer.stop().await;
    }
}

async fn answer_of(client: &PeerClient, peer: &TestPeer, number: u64) -> Answer<()> {
    client.ask(peer.peer, &ask(number)).await.unwrap().answer.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_bytes_arrive_as_they_are() {
    for trust in all_trusts() {
        let (peer, client) = (TestPeer::start(&trust).await, client(&trust));
        let after = Duration::from_millis(250);
        for (number, expected) in [
            (REFERRED, Answer::Refer { peers: referred(&ask(REFERRED)) }),
            (BUSY, Answer::Busy { after }),
            (PASSED, Answer::Pass),
            (UNKNOWN, Answer::Unknown),
            (FAILED, Answer::Failed { is_retryable: true }),
            (FAILED_FOR_GOOD, Answer::Failed { is_retryable: false }),
            (EMPTY, Answer::Bytes { blob_bytes: BLOB_BYTES, length: 0, body: () }),
        ] {
            assert_eq!(answer_of(&client, &peer, number).await, expected, "{trust:?}");
        }
        peer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered() {
    for trust in all_trusts() {
        let (peer, client) = (TestPeer::start(&trust).await, client(&trust));
        let call = async |name, question: &Bytes| {
            let answered = client.call(peer.peer, name, question.clone()).await.unwrap();
            assert_eq!((answered.node, answered.epoch), (NodeId::new(1), Epoch::new(0xe)));
            answered.answer
        };
        for question in [Bytes::new(), Bytes::from(vec![5; 64 << 10])] {
            let expected = CallAnswer::Answered(question.clone());
            assert!(call("echo", &question).await == expected, "{trust:?}");
        }
        let large = CallAnswer::Answered(vec![1; 16 << 20].into());
        assert!(call("large", &Bytes::new()).await == large, "{trust:?}");
        let after = Duration::from_secs(3);
        for (name, expected) in [
            ("too-large", CallAnswer::Failed { is_retryable: false }),
            ("busy", CallAnswer::Busy { after }),
            ("failed", CallAnswer::Failed { is_retryable: true }),
            ("no-such-thing", CallAnswer::Unknown),
        ] {
            assert_eq!(call(name, &Bytes::new()).await, expected, "{trust:?}");
        }
        let hello = client.hello(peer.peer.address).await.unwrap();
        assert_eq!(hello, r#"{"weight":1}"#);
        peer.stop().await;
    }
}
