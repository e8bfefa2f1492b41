//! A cluster in words: one line for each node, then figures.

use std::fmt::Write;

use super::super::text::{bytes, printable};
use crate::cluster::{AnswerCounts, AskedCounts, NodeState, NodeStatus, Status};

const HEADS: [&str; COLUMNS] = ["NODE", "ADDRESS", "STATE", "WEIGHT", "SHARE", "HEARD"];

const COLUMNS: usize = 6;

/// What a node knows of its cluster, as people read it.
pub(super) fn of(status: &Status) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(status.nodes.iter().map(|node| row(status, node)));
    let mut text = aligned(&rows);
    text.push('\n');
    for (what, words) in figures(status) {
        let _infallible = writeln!(text, "{what:<9}  {words}");
    }
    text
}

fn row(status: &Status, node: &NodeStatus) -> [String; COLUMNS] {
    let state = match node.state {
        NodeState::Warming => "warming",
        NodeState::Serving => "serving",
        NodeState::Draining => "draining",
    };
    let mut heard = if node.id == status.node.id {
        "this node".to_owned()
    } else if node.is_silent {
        format!("silent for {} s", node.silent_seconds)
    } else {
        format!("{} s ago", node.silent_seconds)
    };
    if let Some(seconds) = node.breaker_seconds {
        let _infallible = write!(heard, ", left alone for {seconds} s more");
    }
    [
        node.id.to_string(),
        node.address.to_string(),
        state.to_owned(),
        node.weight.to_string(),
        format!("{:.1} %", 100.0 * node.share),
        heard,
    ]
}

/// Rows of equally wide columns.
fn aligned(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn figures(status: &Status) -> [(&'static str, String); 6] {
    let Status { node, exchange, bytes: from, .. } = status;
    let AnswerCounts { served, referred, refused } = exchange.answers;
    let (busy, limit, sent) =
        (exchange.lanes_busy, exchange.lanes_limit, bytes(exchange.sent_bytes));
    let sending = format!(
        "{busy} of {limit} lanes busy, {sent} sent; \
         answers: {served} served, {referred} referred, {refused} refused"
    );
    let coming = exchange.parts_coming;
    let receiving = format!("{coming} parts on their way; asked: {}", asked(&exchange.asked));
    let (running, most) = (exchange.fetches_running, exchange.fetches_limit);
    let (slow, deputies, direct) = (exchange.slow, exchange.deputies, exchange.direct);
    let sources = format!(
        "memory {}, disk {}, peers {}, storage {}, upstreams {}",
        bytes(from.memory),
        bytes(from.disk),
        bytes(from.peer),
        bytes(from.storage),
        bytes(from.upstream),
    );
    [
        ("epoch", format!("{}; changes: {}", printable(&node.epoch), node.view_changes)),
        ("sending", sending),
        ("receiving", receiving),
        ("fetching", format!("{running} parts from the storage, {most} at most")),
        ("late", format!("{slow} slow, {deputies} asked of deputies, {direct} fetched directly")),
        ("bytes", sources),
    ]
}

fn asked(counts: &AskedCounts) -> String {
    let AskedCounts { bytes, referred, busy, unknown, failed, dead, given_up } = counts;
    format!(
        "{bytes} bytes, {referred} referred, {busy} busy, {unknown} unknown, {failed} failed, {dead} dead, \
         {given_up} given up"
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cluster::{ExchangeStatus, NodeId, OwnStatus, SourceBytes};

    fn node(number: u128, weight: u32, share: f64) -> NodeStatus {
        NodeStatus {
            id: NodeId::new(number),
            address: format!("10.0.0.{number}:5003").parse().unwrap(),
            weight,
            state: NodeState::Serving,
            silent_seconds: 0,
            is_silent: false,
            share,
            breaker_seconds: None,
        }
    }

    /// Three nodes and an agent, one of which is gone.
    pub(crate) fn example() -> Status {
        let own = node(7, 1, 1.0 / 3.0);
        let gone = NodeStatus {
            state: NodeState::Draining,
            silent_seconds: 75,
            is_silent: true,
            breaker_seconds: Some(8),
            ..node(12, 0, 0.0)
        };
        let agent = NodeStatus { silent_seconds: 2, ..node(200, 0, 0.0) };
        let exchange = ExchangeStatus {
            lanes_busy: 2,
            lanes_limit: 8,
            sent_bytes: 3 << 29,
            parts_coming: 12,
            fetches_running: 1,
            fetches_limit: 4,
            answers: AnswerCounts { served: 345, referred: 20, refused: 3 },
            asked: AskedCounts {
                bytes: 300,
                referred: 21,
                busy: 5,
                given_up: 2,
                ..AskedCounts::default()
            },
            slow: 7,
            deputies: 1,
            direct: 0,
        };
        let (id, address) = (own.id, own.address);
        let (weight, state, share) = (1, NodeState::Serving, own.share);
        let epoch = "948020eb4517af1b".to_owned();
        Status {
            node: OwnStatus { id, address, weight, state, epoch, view_changes: 3, share },
            nodes: vec![own, node(9, 2, 2.0 / 3.0), gone, agent],
            exchange,
            bytes: SourceBytes {
                memory: 1 << 30,
                disk: 0,
                peer: 1 << 31,
                storage: 1234,
                upstream: 5,
            },
        }
    }

    const EXPECTED: &str = "\
NODE                              ADDRESS          STATE     WEIGHT  SHARE   HEARD
00000000000000000000000000000007  10.0.0.7:5003    serving   1       33.3 %  this node
00000000000000000000000000000009  10.0.0.9:5003    serving   2       66.7 %  0 s ago
0000000000000000000000000000000c  10.0.0.12:5003   draining  0       0.0 %   silent for 75 s, left alone for 8 s more
000000000000000000000000000000c8  10.0.0.200:5003  serving   0       0.0 %   2 s ago

epoch      948020eb4517af1b; changes: 3
sending    2 of 8 lanes busy, 1.5 GiB sent; answers: 345 served, 20 referred, 3 refused
receiving  12 parts on their way; asked: 300 bytes, 21 referred, 5 busy, 0 unknown, 0 failed, 0 dead, 2 given up
fetching   1 parts from the storage, 4 at most
late       7 slow, 1 asked of deputies, 0 fetched directly
bytes      memory 1.0 GiB, disk 0 B, peers 2.0 GiB, storage 1.2 KiB, upstreams 5 B
";

    #[test]
    fn a_cluster_is_a_line_for_each_node_and_figures() {
        assert_eq!(of(&example()), EXPECTED);
    }
}
