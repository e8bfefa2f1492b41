//! What goes wrong while several nodes share what they fetch from another registry.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all};

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{Image, REPOSITORY, read, until, upstream_requests},
    nodes::Nodes,
};

/// A layer of many parts, of which some have come when the upstream stalls.
const LAYER: usize = 24 << 20;

/// Nodes that read a layer of which no more than 8 MiB come, and which of them fetches it.
async fn stalled() -> (Nodes, Image, usize) {
    let nodes = Nodes::start("").await;
    let image = nodes.put_image("v1", LAYER);
    let beginning = format!("GET /v2/{REPOSITORY}/{}", image.layer_path());
    let stall = Script::new(Fault::StallAfter(8 << 20)).on(beginning).times(1);
    nodes.upstream.script(stall);
    // Somebody has to ask.
    drop(nodes.get(0, &image.layer_path()).await);
    let line = upstream_requests("blob", "ok");
    let mut filler = None;
    let found = until(async || {
        for node in 0..3 {
            if nodes.metric(node, &line).await.is_some_and(|count| count > 0) {
                filler = Some(node);
            }
        }
        filler.is_some()
    });
    assert!(found.await, "no node fetches the layer");
    (nodes, image, filler.expect("it was found"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_fetches_a_blob_is_killed_and_another_goes_on() {
    let (mut nodes, image, filler) = stalled().await;
    let others: Vec<usize> = (0..3).filter(|node| *node != filler).collect();
    let mut bodies = Vec::new();
    for node in &others {
        let answer = nodes.get(*node, &image.layer_path()).await;
        assert_eq!(answer.status(), 200);
        let mut body = answer.bytes_stream();
        let first = body.next().await.expect("it goes on").expect("it does not break");
        bodies.push((first, body));
    }
    nodes.nodes[filler].kill();
    let rests = bodies.into_iter().map(|(first, mut body)| async move {
        let mut read = first.to_vec();
        while let Some(next) = body.next().await {
            read.extend_from_slice(&next.expect("the body does not break"));
        }
        read
    });
    let rests = tokio::time::timeout(Duration::from_secs(60), join_all(rests)).await;
    for read in rests.expect("the pulls end in time") {
        assert!(read == image.layer_bytes, "{} bytes, and not the layer's", read.len());
    }
    let gets = nodes.asked("GET", &image.layer_path());
    assert!(gets <= 3, "it was asked for {gets} times");
    for node in others {
        let (status, bytes) = read(nodes.get(node, &image.layer_path()).await).await;
        assert!(status == 200 && bytes == image.layer_bytes, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_leave_a_blob_that_comes_for_all() {
    let (nodes, image, _) = stalled().await;
    for node in 0..3 {
        let mut body = nodes.get(node, &image.layer_path()).await.bytes_stream();
        body.next().await.expect("it goes on").expect("it does not break");
    }
    nodes.upstream.release();
    nodes.pull_at_once("v1", &image).await;
    assert_eq!(nodes.asked("GET", &image.layer_path()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_the_upstream_end_well_for_nobody() {
    for length in [LAYER, 1 << 20] {
        let nodes = Nodes::start("").await;
        let image = nodes.put_image("v1", length);
        let beginning = format!("GET /v2/{REPOSITORY}/{}", image.layer_path());
        nodes.upstream.script(Script::new(Fault::WrongBytes).on(beginning));
        let pulls = (0..6).map(|number| {
            let (nodes, path) = (&nodes, image.layer_path());
            async move {
                let answer = nodes.get(number % 3, &path).await;
                answer.status() == 200 && answer.bytes().await.is_ok()
            }
        });
        let ended = tokio::time::timeout(Duration::from_secs(60), join_all(pulls)).await;
        let ended = ended.expect("the pulls end in time");
        assert!(!ended.contains(&true), "{length}: a body has ended well: {ended:?}");
        let gets = nodes.asked("GET", &image.layer_path());
        assert!(gets <= 6, "{length}: it was asked for {gets} times");
        nodes.upstream.clear_scripts();
        nodes.pull_at_once("v1", &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_refuses_is_told_to_the_clients_of_all_nodes() {
    for (status, expected) in [(403, 403), (500, 502)] {
        let nodes = Nodes::start("").await;
        let image = nodes.put_image("v1", 1000);
        nodes.upstream.script(Script::new(Fault::Status(status)));
        for path in [image.layer_path(), "manifests/v1".to_owned(), "tags/list".to_owned()] {
            let asked = (0..3).map(|node| nodes.get(node, &path));
            let answers = join_all(asked).await;
            let statuses: Vec<u16> =
                answers.iter().map(|answer| answer.status().as_u16()).collect();
            assert_eq!(statuses, [expected; 3], "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_so_for_all_and_what_is_held_is_given() {
    let nodes = Nodes::start("tag_ttl: 100ms").await;
    let image = nodes.put_image("v1", LAYER);
    nodes.pull_at_once("v1", &image).await;
    let stored = until(async || {
        let line = crate::fixture::fills("stored");
        let mut stored = 0;
        for node in 0..3 {
            stored += nodes.metric(node, &line).await.unwrap_or(0);
        }
        stored == 2
    });
    assert!(stored.await, "what was fetched is not stored");
    nodes.upstream.stop().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    nodes.pull_at_once("v1", &image).await;
    let asked = (0..3).map(|node| nodes.get(node, "manifests/other"));
    for answer in join_all(asked).await {
        assert_eq!(answer.status(), 502);
    }
}
