//! Listing tags (end-8).

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;

use crate::{
    client::with_query,
    content::{pattern, sha256, small_index},
    node::{Backend, TestNode},
};

on_both_backends! {
    tags_come_in_order,
    an_unknown_repository_has_no_list,
    a_repository_without_tags_has_an_empty_list,
    n_is_the_most_of_one_answer,
    nothing_is_listed_where_n_is_0,
    a_list_goes_on_after_last,
    last_need_not_be_a_tag,
    links_lead_to_the_end,
    many_tags_that_share_a_beginning_are_all_listed,
    a_malformed_n_is_refused,
    any_tags_are_listed_in_order_on_pages_of_any_size,
    foreign_files_are_no_tags,
}

const NAME: &str = "tags/here";
const TARGET: &str = "/v2/tags/here/tags/list";

async fn tagged(backend: Backend, tags: &[&str]) -> TestNode {
    let node = TestNode::start(backend, "").await;
    for tag in tags {
        node.push_manifest(NAME, tag, &small_index("x")).await;
    }
    node
}

async fn list(node: &TestNode, query: &str) -> Vec<String> {
    let answer = node.get(&with_query(TARGET, query)).expect(200).await;
    assert_eq!(answer.header("content-type"), "application/json");
    let body = answer.json();
    assert_eq!(body["name"], NAME);
    strings(&body["tags"])
}

fn strings(value: &Value) -> Vec<String> {
    let strings = value.as_array().unwrap_or_else(|| panic!("{value} is a list"));
    strings.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// Follows the links from `target` on; returns the pages.
pub(crate) async fn pages(node: &TestNode, target: String, field: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), Some(target));
    while let Some(target) = next {
        let answer = node.get(&target).expect(200).await;
        pages.push(strings(&answer.json()[field]));
        next = answer.next_page();
        assert!(pages.len() < 10_000, "the links lead nowhere: {target}");
    }
    pages
}

async fn tags_come_in_order(backend: Backend) {
    let tags = ["v2", "v10", "latest", "V1", "_x", "1", "a-b", "a", "a.b", "a_b", "a0"];
    let node = tagged(backend, &tags).await;
    let mut sorted = tags;
    sorted.sort_unstable();
    assert_eq!(list(&node, "").await, sorted);
}

async fn an_unknown_repository_has_no_list(backend: Backend) {
    let node = tagged(backend, &["v1"]).await;
    for name in ["never/seen", "tags", "tags/here/below"] {
        for query in ["", "?n=0", "?n=5", "?last=a"] {
            let target = format!("/v2/{name}/tags/list{query}");
            node.get(&target).refused(404, "NAME_UNKNOWN").await;
        }
    }
}

async fn a_repository_without_tags_has_an_empty_list(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    node.push_blob(NAME, &pattern(10, 1)).await;
    assert!(list(&node, "").await.is_empty(), "after a blob");
    let manifest = small_index("x");
    node.push_manifest(NAME, &sha256(&manifest), &manifest).await;
    assert!(list(&node, "").await.is_empty(), "after a manifest by digest");
    node.push_manifest(NAME, "v1", &manifest).await;
    node.delete(&format!("/v2/{NAME}/manifests/v1")).expect(202).await;
    assert!(list(&node, "").await.is_empty(), "after the tag was deleted");
    assert!(list(&node, "n=3").await.is_empty());
}

async fn n_is_the_most_of_one_answer(backend: Backend) {
    let node = tagged(backend, &["a", "b", "c", "d"]).await;
    for (n, expected) in [(1, 1), (3, 3), (4, 4), (5, 4), (1_000_000, 4)] {
        let answer = node.get(&format!("{TARGET}?n={n}")).expect(200).await;
        let tags = strings(&answer.json()["tags"]);
        assert_eq!(tags, ["a", "b", "c", "d"][..expected], "n={n}");
        assert_eq!(answer.next_page().is_some(), expected < 4, "n={n}: {answer:?}");
    }
}

async fn nothing_is_listed_where_n_is_0(backend: Backend) {
    let node = tagged(backend, &["a", "b"]).await;
    for query in ["n=0", "n=0&last=a", "last=a&n=0"] {
        let answer = node.get(&with_query(TARGET, query)).expect(200).await;
        assert_eq!(answer.json()["tags"], Value::Array(vec![]), "{query}");
        assert_eq!(answer.next_page(), None, "{query}");
    }
}

async fn a_list_goes_on_after_last(backend: Backend) {
    let node = tagged(backend, &["a", "b", "c", "d"]).await;
    assert_eq!(list(&node, "last=b").await, ["c", "d"]);
    assert_eq!(list(&node, "last=b&n=1").await, ["c"]);
    assert_eq!(list(&node, "last=d").await, [""; 0]);
    assert_eq!(list(&node, "last=d&n=1").await, [""; 0]);
    assert_eq!(list(&node, "last=").await, ["a", "b", "c", "d"]);
}

async fn last_need_not_be_a_tag(backend: Backend) {
    let node = tagged(backend, &["a", "b-1", "b.1", "b", "c"]).await;
    let cases: [(&str, &[&str]); 9] = [
        ("a0", &["b", "b-1", "b.1", "c"]),
        ("b-", &["b-1", "b.1", "c"]),
        ("b%2Fx", &["c"]),
        ("%2F", &["a", "b", "b-1", "b.1", "c"]),
        ("..%2F..", &["a", "b", "b-1", "b.1", "c"]),
        ("b%00", &["b-1", "b.1", "c"]),
        ("%F0%9F%A6%86", &[]),
        ("%FF", &[]),
        ("~", &[]),
    ];
    for (last, expected) in cases {
        for n in ["", "&n=10"] {
            let query = format!("last={last}{n}");
            assert_eq!(list(&node, &query).await, expected, "{query}");
        }
    }
}

async fn links_lead_to_the_end(backend: Backend) {
    let node = tagged(backend, &["a", "b", "c", "d", "e"]).await;
    let pages = pages(&node, format!("{TARGET}?n=2"), "tags").await;
    assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
}

async fn many_tags_that_share_a_beginning_are_all_listed(backend: Backend) {
    let node = tagged(backend, &["v1"]).await;
    let mut expected: Vec<String> = (0..100).map(|number| format!("v1.{number}")).collect();
    let manifest = small_index("x");
    for some in expected.chunks(25) {
        let query: Vec<String> = some.iter().map(|tag| format!("tag={tag}")).collect();
        let reference = format!("{}?{}", sha256(&manifest), query.join("&"));
        node.push_manifest(NAME, &reference, &manifest).await;
    }
    expected.extend(["v1".to_owned(), "v1-rc".to_owned()]);
    node.push_manifest(NAME, "v1-rc", &manifest).await;
    expected.sort_unstable();
    assert_eq!(list(&node, "").await, expected);
    for n in [17, 51, 101, 102, 103] {
        let pages = pages(&node, format!("{TARGET}?n={n}"), "tags").await;
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == n), "n={n}: {pages:?}");
        assert_eq!(pages.concat(), expected, "n={n}");
    }
}

async fn a_malformed_n_is_refused(backend: Backend) {
    let node = tagged(backend, &["a"]).await;
    for n in ["-1", "x", "1.5", "", "%20", "0x10", "99999999999999999999999"] {
        let target = format!("{TARGET}?n={n}");
        node.get(&target).refused(400, "PAGINATION_NUMBER_INVALID").await;
    }
}

/// Names that meet each other's borders: few letters, many separators.
fn tag_names() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set("[ab0][ab.-]{0,3}|[aA0_][a0_.-]{0,5}", 1..16)
}

/// Puts a tag into the storage as any registry does: that its manifest is missing is no matter here.
fn put_tag(node: &TestNode, name: &str, tag: &str) {
    let folder = format!("docker/registry/v2/repositories/{name}/_manifests/tags/{tag}/current");
    let folder = node.files().join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("link"), sha256(tag.as_bytes())).unwrap();
}

async fn any_tags_are_listed_in_order_on_pages_of_any_size(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for case in 0..6 {
        let tags = tag_names().new_tree(&mut runner).unwrap().current();
        let name = format!("case{case}");
        tags.iter().for_each(|tag| put_tag(&node, &name, tag));
        let tags: Vec<String> = tags.into_iter().collect();
        let target = format!("/v2/{name}/tags/list");
        assert_eq!(pages(&node, target.clone(), "tags").await, std::slice::from_ref(&tags));
        for n in 1..=tags.len() + 1 {
            let found = pages(&node, format!("{target}?n={n}"), "tags").await;
            let expected: Vec<Vec<String>> = tags.chunks(n).map(<[String]>::to_vec).collect();
            assert_eq!(found, expected, "n={n} of {tags:?}");
        }
        for (place, last) in tags.iter().enumerate() {
            let body = node.get(&format!("{target}?last={last}")).expect(200).await.json();
            assert_eq!(strings(&body["tags"]), tags[place + 1..], "after {last} of {tags:?}");
        }
    }
}

async fn foreign_files_are_no_tags(backend: Backend) {
    let node = tagged(backend, &["a", "b"]).await;
    let folder =
        node.files().join(format!("docker/registry/v2/repositories/{NAME}/_manifests/tags"));
    std::fs::write(folder.join(".DS_Store"), "x").unwrap();
    std::fs::create_dir(folder.join(".hidden")).unwrap();
    std::fs::write(folder.join(".hidden/link"), "x").unwrap();
    std::fs::write(folder.join("notes"), "x").unwrap();
    assert_eq!(list(&node, "").await, ["a", "b"]);
    assert_eq!(list(&node, "n=1").await, ["a"]);
}
