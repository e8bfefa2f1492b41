//! Where the bodies are in what one side of a connection of HTTP/1.1 sends.

use millpond::cluster::NodeId;

use crate::{content::number_of, network::Number};

/// What is between a head and its body.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// The node that asks something, if the head of what it asks says so.
pub(crate) fn asker(head: &[u8]) -> Option<Number> {
    let head = std::str::from_utf8(head).ok()?;
    let from = head.lines().find_map(|line| line.strip_prefix("millpond-from: "))?;
    let (id, _address) = from.split_once('@')?;
    id.parse::<NodeId>().ok().map(number_of)
}

/// Follows the answers of a connection.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The head that is not yet there as a whole.
    head: Vec<u8>,
    body: Body,
}

/// The body that comes now.
#[derive(Clone, Copy, Debug, Default)]
struct Body {
    kind: Kind,
    length: usize,
    /// How much of it is still to come.
    left: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Bytes of a part of a blob, which no seal covers.
    Part,
    #[default]
    Other,
}

impl Answers {
    /// Takes in the next bytes. If there is a `damage`, flips one bit of each body with a part of a blob: in the byte at
    /// that place, or in the last one if there are not so many.
    pub(crate) fn follow(&mut self, bytes: &mut [u8], damage: Option<usize>) {
        let mut at = 0;
        while at < bytes.len() {
            if self.body.left == 0 {
                self.head.push(bytes[at]);
                at += 1;
                if self.head.ends_with(END_OF_HEAD) {
                    self.body = Body::after(&std::mem::take(&mut self.head));
                }
                continue;
            }
            let taken = self.body.left.min(bytes.len() - at);
            let begin = self.body.length - self.body.left;
            let place = damage.map(|place| place.min(self.body.length - 1));
            let place = place.filter(|place| (begin..begin + taken).contains(place));
            if let (Kind::Part, Some(place)) = (self.body.kind, place) {
                bytes[at + place - begin] ^= 0b100;
            }
            self.body.left -= taken;
            at += taken;
        }
    }
}

impl Body {
    fn after(head: &[u8]) -> Self {
        let head = String::from_utf8_lossy(head).to_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        assert!(field("transfer-encoding:").is_none(), "nodes say how long a body is: {head}");
        let length = field("content-length:").and_then(|length| length.trim().parse().ok());
        let length = length.unwrap_or(0);
        let is_part =
            field("millpond-blob-bytes:").is_some() && field("millpond-digest:").is_none();
        let kind = if is_part { Kind::Part } else { Kind::Other };
        Self { kind, length, left: length }
    }
}

#[test]
fn one_bit_of_each_part_is_flipped_however_it_comes() {
    let part = |body: &str| {
        format!(
            "HTTP/1.1 206 X\r\nContent-Length: {}\r\nmillpond-blob-bytes: 9\r\n\r\n{body}",
            body.len()
        )
    };
    let other = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsame";
    let said = [&part("abcdef"), other, &part("ab"), &part("")].concat();
    let expected = [&part("abc`ef"), other, &part("af"), &part("")].concat();
    for piece_bytes in [1, 7, 1000] {
        let (mut answers, mut bytes) = (Answers::default(), said.clone().into_bytes());
        bytes.chunks_mut(piece_bytes).for_each(|piece| answers.follow(piece, Some(3)));
        assert_eq!(String::from_utf8(bytes).unwrap(), expected, "in pieces of {piece_bytes}");
    }
}
