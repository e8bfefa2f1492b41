//! What a node says of itself.

use serde::{Deserialize, Serialize};

use super::{Epoch, Peer, Weight};

/// What a node is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It has begun, and owns nothing as long as others do: it has little to give yet.
    Warming,
    /// It owns its share, by its weight.
    Serving,
    /// It is about to end: it owns nothing any more, and still answers.
    Draining,
}

/// What a node answers when it is asked who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The node, and where others reach it.
    pub peer: Peer,
    /// How much of everything it owns while it serves; 0 if it owns nothing.
    pub weight: Weight,
    /// What it is about to do.
    pub state: NodeState,
    /// What it knows of all.
    pub epoch: Epoch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::NodeId;

    #[test]
    fn a_hello_has_one_written_form() {
        let peer = Peer { id: NodeId::new(7), address: "[::1]:5003".parse().unwrap() };
        let epoch = Epoch::new(u64::MAX);
        let hello = Hello { peer, weight: 2, state: NodeState::Draining, epoch };
        let text = serde_json::to_string(&hello).unwrap();
        let expected = "{\"peer\":{\"id\":\"00000000000000000000000000000007\",\"address\":\"[::1]:5003\"},\
                        \"weight\":2,\"state\":\"draining\",\"epoch\":18446744073709551615}";
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Hello>(&text).unwrap(), hello);
    }
}
