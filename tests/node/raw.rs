//! Requests byte by byte, for what no HTTP client would send.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::node::TestNode;

/// How often a condition is looked at that nothing announces.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Nothing here takes longer, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(20);

/// A connection to a node.
pub(crate) struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

/// An answer as it stood on the wire.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(node: &TestNode) -> Self {
        let address = &node.url()["http://".len()..];
        let stream = TcpStream::connect(address).await.expect("the node accepts connections");
        Self { stream, received: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.expect("the node reads");
    }

    /// Sends as much as the node takes.
    pub(crate) async fn try_send(&mut self, text: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(text.as_ref()).await
    }

    /// The next answer. Its length must be announced, or it must have none.
    pub(crate) async fn answer(&mut self) -> RawAnswer {
        timeout(DEADLINE, self.read_answer()).await.expect("an answer in time")
    }

    async fn read_answer(&mut self) -> RawAnswer {
        let end = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.read_more().await > 0, "no answer, only {:?}", self.text());
        };
        let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
        self.received.drain(..end);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
        while self.received.len() < length {
            assert!(self.read_more().await > 0, "the body of {head:?} breaks off");
        }
        let body = self.received.drain(..length).collect();
        RawAnswer { status: status.unwrap_or_else(|| panic!("no status in {head:?}")), head, body }
    }

    /// Everything until the node closes the connection, cleanly or not.
    pub(crate) async fn rest(&mut self) -> String {
        let read_all = async { while self.read_more().await > 0 {} };
        timeout(DEADLINE, read_all).await.expect("the connection is closed in time");
        self.text()
    }

    /// So many bytes, and no more for now.
    pub(crate) async fn read_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let read = async {
            while self.received.len() < bytes {
                assert!(self.read_more().await > 0, "the connection is closed");
            }
        };
        timeout(DEADLINE, read).await.expect("the bytes come in time");
        self.received.drain(..bytes).collect()
    }

    async fn read_more(&mut self) -> usize {
        self.stream.read_buf(&mut self.received).await.unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

impl RawAnswer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Where `needle` begins.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Asks until the answer is the wanted one, for as long as anything may take here.
pub(crate) async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let wait = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}
