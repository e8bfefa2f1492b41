//! `/v2/`: is this a registry? (end-1)

use crate::{
    node::{Backend, TestNode},
    raw::Raw,
};

on_both_backends! {
    a_ping_is_answered,
    a_ping_by_head_is_the_same_without_the_body,
    the_root_answers_load_balancers,
    every_answer_names_the_api_version,
}

async fn a_ping_is_answered(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for target in ["/v2/", "/v2"] {
        let answer = node.get(target).expect(200).await;
        assert_eq!(answer.body, "{}", "{target}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
}

async fn a_ping_by_head_is_the_same_without_the_body(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let answer = node.head("/v2/").expect(200).await;
    assert_eq!(answer.header("content-length"), "2");
    let mut raw = Raw::connect(&node).await;
    raw.send("HEAD /v2/ HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n").await;
    assert!(raw.rest().await.ends_with("\r\n\r\n"), "nothing follows the headers");
}

async fn the_root_answers_load_balancers(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    assert_eq!(node.get("/").expect(200).await.body, "");
}

async fn every_answer_names_the_api_version(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for target in ["/v2/", "/v2/_catalog", "/v2/a/tags/list", "/v2/A/tags/list", "/nowhere"] {
        let answer = node.get(target).send().await;
        let version = answer.header("docker-distribution-api-version");
        assert_eq!(version, "registry/2.0", "{target}");
    }
}
