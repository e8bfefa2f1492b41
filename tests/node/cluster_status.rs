//! What nodes of a cluster tell of it, and `millpond status`, which shows that.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use futures_util::future::join_all;
use millpond::cluster::{NodeState, Status};
use tokio::process::Command;

use crate::{
    cluster::Cluster,
    content::{pattern, sha256},
    disk::metric,
    node::{Backend, TestNode},
    raw::eventually,
};

const MIB: usize = 1 << 20;

/// No run of the program takes this long, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);

async fn status(node: &TestNode) -> Status {
    let answer = node.get(&format!("{}/cluster", node.admin_url())).expect(200).await;
    assert_eq!(answer.header("content-type"), "application/json");
    serde_json::from_slice(&answer.body).expect("the status of a cluster")
}

async fn statuses(cluster: &Cluster) -> Vec<Status> {
    join_all(cluster.nodes.iter().map(status)).await
}

/// What came of a run of the program: its exit status, what it printed, what it complained of.
async fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("status").args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.expect("it ends").expect("it can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("it ends by itself");
    (code, text(output.stdout), text(output.stderr))
}

fn sum(statuses: &[Status], figure: impl Fn(&Status) -> u64) -> u64 {
    statuses.iter().map(figure).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_go_through_a_cluster_add_up() {
    for length in [100_000, 3 * MIB, 9 * MIB, 66 * MIB] {
        let blob = pattern(length, 5);
        let cluster = Cluster::of(3, std::slice::from_ref(&blob)).await;
        let path = format!("/v2/a/blobs/{}", sha256(&blob));
        let pulls = cluster.nodes.iter().map(|node| node.get(&path).expect(200));
        assert!(join_all(pulls).await.iter().all(|answer| answer.body == blob), "other bytes");
        let told = statuses(&cluster).await;
        let length = length as u64;
        let received = sum(&told, |status| status.bytes.peer);
        assert_eq!(sum(&told, |status| status.bytes.storage), length, "{told:#?}");
        assert_eq!(received, 2 * length, "{told:#?}");
        let sent = sum(&told, |status| status.exchange.sent_bytes);
        let is_steady = sum(&told, |status| status.exchange.slow) == 0;
        // Of a part that somebody else was asked for too, some bytes may be on their way twice.
        assert!(sent == received || (sent > received && !is_steady), "{sent}: {told:#?}");
        assert_eq!(sum(&told, |status| status.bytes.disk + status.bytes.upstream), 0);
        let served = sum(&told, |status| status.exchange.answers.served);
        let asked = sum(&told, |status| status.exchange.asked.bytes);
        assert!(served > 0 && (asked >= served || !is_steady), "{told:#?}");
        assert_eq!(sum(&told, |status| status.exchange.parts_coming), 0, "{told:#?}");
        for (node, status) in cluster.nodes.iter().zip(&told) {
            assert_metrics(node, status).await;
        }
    }
}

/// Fails unless the metrics say the same as the status.
async fn assert_metrics(node: &TestNode, status: &Status) {
    let Status { exchange, bytes, .. } = status;
    for (name, expected) in [
        ("millpond_cache_filled_bytes_total{from=\"storage\"}", bytes.storage),
        ("millpond_cache_filled_bytes_total{from=\"peer\"}", bytes.peer),
        ("millpond_cache_memory_read_bytes_total", bytes.memory),
        ("millpond_cluster_sent_bytes_total", exchange.sent_bytes),
        ("millpond_cluster_answers_total{answer=\"served\"}", exchange.answers.served),
        ("millpond_cluster_asked_total{outcome=\"bytes\"}", exchange.asked.bytes),
        ("millpond_cluster_lanes_limit", 8),
        ("millpond_cluster_fetches_limit", exchange.fetches_limit),
        ("millpond_cluster_fetches_running", 0),
        ("millpond_cluster_parts_coming", 0),
        ("millpond_cluster_breakers_open", 0),
        ("millpond_cluster_nodes", 3),
        ("millpond_cluster_nodes_silent", 0),
        ("millpond_cluster_view_changes_total", status.node.view_changes),
        ("millpond_cluster_share_permille", 333),
    ] {
        assert_eq!(metric(node, name).await, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_tells_the_same_of_all_and_owns_its_share() {
    let cluster = Cluster::of(3, &[]).await;
    let told = statuses(&cluster).await;
    let epochs: BTreeSet<&str> = told.iter().map(|status| &*status.node.epoch).collect();
    assert_eq!(epochs.len(), 1, "{told:#?}");
    let ids: BTreeSet<_> = told.iter().map(|status| status.node.id).collect();
    assert_eq!(ids.len(), 3, "{told:#?}");
    for Status { node, nodes, .. } in &told {
        assert_eq!(nodes.iter().map(|node| node.id).collect::<BTreeSet<_>>(), ids);
        let shares: f64 = nodes.iter().map(|node| node.share).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{nodes:#?}");
        let own = &nodes[0];
        assert_eq!((own.id, own.address, own.share), (node.id, node.address, node.share));
        for node in nodes {
            assert_eq!((node.weight, node.state), (1, NodeState::Serving), "{nodes:#?}");
            assert!(!node.is_silent && node.breaker_seconds.is_none(), "{nodes:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_own_nothing_and_give_each_other_what_they_have() {
    let blob = pattern(40 * MIB, 3);
    let cluster = Cluster::with_agents(5, 4, std::slice::from_ref(&blob)).await;
    let path = format!("/v2/a/blobs/{}", sha256(&blob));
    for _ in 0..2 {
        let pulls = cluster.nodes.iter().map(|node| node.get(&path).expect(200));
        assert!(join_all(pulls).await.iter().all(|answer| answer.body == blob), "other bytes");
    }
    let told = statuses(&cluster).await;
    let bytes = blob.len() as u64;
    assert_eq!((told[0].node.share, told[0].bytes.storage), (1.0, bytes), "{told:#?}");
    for told in &told[1..] {
        assert_eq!((told.node.weight, told.node.share), (0, 0.0));
        // Once: the second time they have it.
        assert_eq!((told.bytes.storage, told.bytes.peer), (0, bytes), "{told:#?}");
    }
    assert!(sum(&told[1..], |status| status.exchange.sent_bytes) > 0, "{told:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_is_shown_as_silent() {
    let mut cluster = Cluster::of(3, &[]).await;
    let gone = status(&cluster.nodes[2]).await.node.id;
    assert_eq!(cluster.nodes[2].stop().await, 0);
    let node = &cluster.nodes[0];
    let told = eventually("a stopped node is shown as silent", async || {
        let told = status(node).await;
        let is_gone = told.nodes.iter().any(|node| node.is_silent && node.share == 0.0);
        is_gone.then_some(told)
    })
    .await;
    for known in &told.nodes {
        let is_gone = known.id == gone;
        assert_eq!((known.is_silent, known.share), (is_gone, if is_gone { 0.0 } else { 0.5 }));
        assert!(known.silent_seconds >= 12 || !is_gone, "{known:#?}");
    }
    assert_eq!(metric(node, "millpond_cluster_nodes").await, 3);
    assert_eq!(metric(node, "millpond_cluster_nodes_silent").await, 1);
    assert_eq!(metric(node, "millpond_cluster_members").await, 2);
    let (code, text, _) = run(&["--admin", node.admin_url()]).await;
    let line = text.lines().find(|line| line.starts_with(&gone.to_string()));
    assert!(code == 1 && line.is_some_and(|line| line.contains("silent for ")), "{code}: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_shows_a_cluster() {
    let cluster = Cluster::of(3, &[]).await;
    let admin = cluster.nodes[0].admin_url();
    let told = status(&cluster.nodes[0]).await;
    let (code, text, errors) = run(&["--admin", admin]).await;
    assert_eq!((code, &*errors), (0, ""), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("NODE  ") && lines[4].is_empty(), "{text}");
    for (line, node) in lines[1..].iter().zip(&told.nodes) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (id, address) = (node.id.to_string(), node.address.to_string());
        assert_eq!(words[..6], [&*id, &address, "serving", "1", "33.3", "%"], "{text}");
    }
    let epoch = format!("epoch      {}; ", told.node.epoch);
    assert!(lines[5].starts_with(&epoch), "{text}");
    let (code, text, errors) = run(&["--admin", admin, "--json"]).await;
    assert_eq!((code, &*errors), (0, ""), "{text}");
    let printed: Status = serde_json::from_str(&text).expect("the status of a cluster");
    assert_eq!(printed.node, told.node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_finds_the_daemon_by_its_configuration() {
    let cluster = Cluster::of(1, &[]).await;
    let admin = cluster.nodes[0].admin_url().trim_start_matches("http://").to_owned();
    let folder = tempfile::TempDir::new().expect("a temporary directory");
    let file = folder.path().join("m.yml");
    std::fs::write(&file, format!("api: {{admin: '{admin}'}}\n")).expect("a file");
    let file = file.to_str().expect("a path in UTF-8");
    let (code, text, errors) = run(&["--config", file]).await;
    assert_eq!((code, &*errors), (0, ""), "{text}");
    assert_eq!(text.matches("this node").count(), 1, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_says_why_there_is_nothing_to_show() {
    let alone = TestNode::start(Backend::Directory, "").await;
    let answer = alone.get(&format!("{}/cluster", alone.admin_url())).expect(404).await;
    let said = "this node is in no cluster: cluster.listen is not set\n";
    assert_eq!(answer.body, said.as_bytes());
    let nobody = format!("http://127.0.0.1:{}", crate::ports::free_ports(1)[0]);
    let alone = alone.admin_url();
    for (arguments, expected, told) in [
        (&["--admin", alone][..], 2, said.trim_end()),
        (&["--admin", &nobody], 2, "does not answer"),
        (&["--admin", "127.0.0.1:5002"], 64, "a server is http://HOST[:PORT]"),
        (&["--admin", &nobody, "--config", "m.yml"], 64, "cannot be used with"),
        (&["--config", "/missing.yml"], 64, "/missing.yml cannot be read"),
        (&["--unknown"], 64, "unexpected argument '--unknown'"),
        (&["here"], 64, "unexpected argument 'here'"),
    ] {
        let (code, text, errors) = run(arguments).await;
        assert_eq!((code, &*text), (expected, ""), "{arguments:?}: {errors}");
        assert!(errors.contains(told), "{told:?} is not in {errors}");
    }
}
