//! Somebody between two nodes, who reads along and changes things.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::timeout,
};

use crate::fixture::DEADLINE;

/// What is done to the bytes that come at once, which are whole messages here.
pub(crate) type Change = fn(&str) -> String;

/// What has been said in one direction.
type Notes = Arc<Mutex<Vec<u8>>>;

/// Passes on what two nodes say to each other.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    /// What the side that asks has sent, as it sent it.
    pub(crate) asked: Notes,
    /// What the other side has answered.
    pub(crate) answered: Notes,
    task: JoinHandle<()>,
}

impl Tap {
    /// Passes all on as it is.
    pub(crate) async fn to(node: SocketAddr) -> Self {
        Self::changing(node, (str::to_owned, str::to_owned)).await
    }

    /// Changes what is asked and what is answered.
    pub(crate) async fn changing(node: SocketAddr, (ask, answer): (Change, Change)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answered) = (Notes::default(), Notes::default());
        let notes = (Arc::clone(&asked), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(node).await else { continue };
                let ((from_near, to_near), (from_far, to_far)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(pass(from_near, to_far, (Arc::clone(&notes.0), ask)));
                tokio::spawn(pass(from_far, to_near, (Arc::clone(&notes.1), answer)));
            }
        });
        Self { address, asked, answered, task }
    }

    pub(crate) fn asked(&self) -> Vec<u8> {
        self.asked.lock().unwrap().clone()
    }

    /// How many answers had this status.
    pub(crate) fn count(&self, status: u16) -> usize {
        let answered = String::from_utf8_lossy(&self.answered.lock().unwrap()).into_owned();
        answered.matches(&format!("HTTP/1.1 {status} ")).count()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, (notes, change): (Notes, Change)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        notes.lock().unwrap().extend_from_slice(&buffer[..count]);
        let changed = match std::str::from_utf8(&buffer[..count]) {
            Ok(text) => change(text).into_bytes(),
            Err(_) => buffer[..count].to_vec(),
        };
        if to.write_all(&changed).await.is_err() {
            return;
        }
    }
}

/// Sends these bytes on a connection of their own, and says what is answered.
pub(crate) async fn send(node: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        while !is_whole(&answer) && stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {}
    };
    timeout(DEADLINE, reading).await.expect("an answer in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether this is an answer with as many bytes as it says.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| body.len() >= length.parse().unwrap())
}
