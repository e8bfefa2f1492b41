//! Listing repositories: `/v2/_catalog`, as docker-registry has it.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    string::string_regex,
    test_runner::{Config, TestRunner},
};

use crate::{
    content::{pattern, sha256, small_index},
    node::{Backend, TestNode},
    tags::pages,
};

on_both_backends! {
    an_empty_registry_has_an_empty_catalog,
    repositories_come_in_order_whatever_they_contain,
    pages_of_every_size_join_to_the_whole,
    a_catalog_goes_on_after_any_text,
    a_repository_without_manifests_is_not_listed,
    a_deleted_repository_is_not_listed,
    nothing_is_listed_where_n_is_0,
    a_malformed_n_is_refused,
    without_n_a_page_has_a_hundred,
    any_repositories_are_listed_in_order_on_pages_of_any_size,
}

const NAMES: [&str; 12] =
    ["a", "a-b", "a-b/c", "a.b", "a/b", "a/b-c", "a/b/c", "a/b0", "a0", "a_b", "b/only/deep", "z"];

async fn stocked(backend: Backend) -> TestNode {
    let node = TestNode::start(backend, "").await;
    for name in NAMES {
        node.push_manifest(name, "v1", &small_index("x")).await;
    }
    node
}

async fn all(node: &TestNode, query: &str) -> Vec<String> {
    pages(node, format!("/v2/_catalog{query}"), "repositories").await.concat()
}

fn sorted() -> Vec<&'static str> {
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    names
}

async fn an_empty_registry_has_an_empty_catalog(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let answer = node.get("/v2/_catalog").expect(200).await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.json(), serde_json::json!({ "repositories": [] }));
    assert_eq!(answer.next_page(), None);
}

async fn repositories_come_in_order_whatever_they_contain(backend: Backend) {
    let node = stocked(backend).await;
    assert_eq!(all(&node, "").await, sorted());
}

async fn pages_of_every_size_join_to_the_whole(backend: Backend) {
    let node = stocked(backend).await;
    for n in [1, 2, 5, 11, 12, 13] {
        let pages = pages(&node, format!("/v2/_catalog?n={n}"), "repositories").await;
        let expected: Vec<_> = sorted().chunks(n).map(<[&str]>::to_vec).collect();
        assert_eq!(pages, expected, "n={n}");
    }
}

async fn a_catalog_goes_on_after_any_text(backend: Backend) {
    let node = stocked(backend).await;
    let texts =
        ["a/", "a/b/", "a-", "a.", "a/b/c/d", "a/a", "b", "b/only", "A", "~", "/", "..", "a//b"];
    for (number, last) in NAMES.into_iter().chain(texts).enumerate() {
        let expected: Vec<&str> = sorted().into_iter().filter(|name| *name > last).collect();
        let n = [3, 100][number % 2];
        let found = all(&node, &format!("?n={n}&last={}", last.replace('/', "%2F"))).await;
        assert_eq!(found, expected, "after {last:?}, n={n}");
    }
}

async fn a_repository_without_manifests_is_not_listed(backend: Backend) {
    let node = stocked(backend).await;
    node.push_blob("only-a-blob", &pattern(10, 1)).await;
    node.begin_upload("only-a-session").await;
    let manifest = small_index("x");
    node.push_manifest("only-a-digest", &sha256(&manifest), &manifest).await;
    let mut expected = sorted();
    expected.push("only-a-digest");
    expected.sort_unstable();
    assert_eq!(all(&node, "").await, expected);
}

async fn a_deleted_repository_is_not_listed(backend: Backend) {
    let node = stocked(backend).await;
    let digest = sha256(&small_index("x"));
    for gone in ["a", "a/b/c", "z"] {
        node.delete(&format!("/v2/{gone}/manifests/{digest}")).expect(202).await;
    }
    let left: Vec<&str> =
        sorted().into_iter().filter(|name| !["a", "a/b/c", "z"].contains(name)).collect();
    assert_eq!(all(&node, "").await, left);
    assert_eq!(all(&node, "?n=2").await, left);
}

async fn nothing_is_listed_where_n_is_0(backend: Backend) {
    let node = stocked(backend).await;
    let pages = pages(&node, "/v2/_catalog?n=0".to_owned(), "repositories").await;
    assert_eq!(pages, [vec![""; 0]]);
}

async fn a_malformed_n_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for n in ["-1", "x", "", "1.5"] {
        let target = format!("/v2/_catalog?n={n}");
        node.get(&target).refused(400, "PAGINATION_NUMBER_INVALID").await;
    }
}

/// Puts a repository into the storage as any registry does.
fn put_repository(node: &TestNode, name: &str) {
    let hex = &sha256(name.as_bytes())["sha256:".len()..];
    let folder =
        format!("docker/registry/v2/repositories/{name}/_manifests/revisions/sha256/{hex}");
    let folder = node.files().join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("link"), format!("sha256:{hex}")).unwrap();
}

async fn without_n_a_page_has_a_hundred(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let names: Vec<String> = (0..130).map(|number| format!("r{number:03}")).collect();
    names.iter().for_each(|name| put_repository(&node, name));
    let pages = pages(&node, "/v2/_catalog".to_owned(), "repositories").await;
    assert_eq!(pages, [&names[..100], &names[100..]]);
}

/// Names that are each other's folders and neighbours.
fn repository_names() -> impl Strategy<Value = BTreeSet<String>> {
    let component = "[ab0]([._]|__|-{1,2})?[ab0]?";
    let well_formed = |name: &String| {
        name.split('/').all(|component| component.ends_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let names = string_regex(&format!("{component}(/{component}){{0,2}}")).unwrap();
    proptest::collection::btree_set(names.prop_filter("as names are", well_formed), 1..12)
}

async fn any_repositories_are_listed_in_order_on_pages_of_any_size(backend: Backend) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for _case in 0..4 {
        let node = TestNode::start(backend, "").await;
        let names = repository_names().new_tree(&mut runner).unwrap().current();
        names.iter().for_each(|name| put_repository(&node, name));
        let names: Vec<String> = names.into_iter().collect();
        for n in [1, 2, 3, names.len(), names.len() + 1] {
            let found = pages(&node, format!("/v2/_catalog?n={n}"), "repositories").await;
            let expected: Vec<_> = names.chunks(n).map(<[String]>::to_vec).collect();
            assert_eq!(found, expected, "n={n} of {names:?}");
        }
        for (place, last) in names.iter().enumerate() {
            let found = all(&node, &format!("?last={}", last.replace('/', "%2F"))).await;
            assert_eq!(found, names[place + 1..], "after {last} of {names:?}");
        }
    }
}
