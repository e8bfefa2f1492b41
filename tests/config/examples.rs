//! The files in `config/`, and the configurations that the README shows.

use std::{collections::BTreeSet, fs, path::Path};

use millpond::config::Config;

use crate::keys::{SecretFiles, Shown, in_force, known, shown};

const ANNOTATED: &str = include_str!("../../config/millpond.yml");
const README: &str = include_str!("../../README.md");

/// Keys of which only one can be given.
const INSTEAD: [&[&str]; 5] = [
    &["storage.s3.secret_key", "storage.s3.secret_key_file"],
    &["storage.s3.session_token", "storage.s3.session_token_file"],
    &[
        "upstreams.password",
        "upstreams.password_file",
        "upstreams.token",
        "upstreams.token_file",
        "upstreams.docker_config",
        "upstreams.credential_helper",
    ],
    &["cluster.members", "cluster.dns", "cluster.gossip"],
    // In this order, gossip has the secret that it needs.
    &["cluster.tls", "cluster.secret_file", "cluster.secret"],
];

/// As many as the longest of those lists.
const ROUNDS: usize = 6;

#[test]
fn every_example_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(path.extension().unwrap(), "yml", "{name}");
        let text = fs::read_to_string(&path).unwrap();
        if let Err(error) = Config::parse(&name, &text, &SecretFiles) {
            panic!("{error}");
        }
        names.insert(name);
    }
    let expected = [
        "behind-a-proxy.yml",
        "directory.yml",
        "millpond.yml",
        "minio.yml",
        "mirror.yml",
        "s3.yml",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn every_configuration_in_the_readme_is_accepted() {
    let blocks: Vec<&str> = README
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        if let Err(error) = Config::parse("README.md", block, &SecretFiles) {
            panic!("{error}\n{block}");
        }
    }
}

#[test]
fn the_annotated_file_means_the_same_as_no_file() {
    assert_eq!(in_force(ANNOTATED), in_force(""));
}

#[test]
fn the_annotated_file_shows_every_key_and_no_other() {
    let there: BTreeSet<String> = shown(ANNOTATED).into_iter().map(|shown| shown.key).collect();
    let known = known();
    for key in ["log.level", "storage.directory.path", "storage.s3.endpoint", "api.headers"] {
        assert!(known.contains(key), "{key} is not in {known:?}");
    }
    assert_eq!(there, known);
}

#[test]
fn the_annotated_file_shows_the_defaults_of_both_storages_and_of_an_upstream() {
    for text in ["", "storage: {s3: {bucket: images}}"] {
        for (key, default) in in_force(text) {
            let shown: Vec<Shown> =
                shown(ANNOTATED).into_iter().filter(|shown| shown.key == key).collect();
            let values: Vec<&str> = shown.iter().map(|shown| shown.value.as_str()).collect();
            assert_eq!(values, [default], "{key}");
        }
    }
}

#[test]
fn everything_behind_a_comment_sign_is_accepted_without_it() {
    for round in 0..ROUNDS {
        let given = INSTEAD.map(|keys| keys[round % keys.len()]);
        let is_left_out = |key: &str| {
            let is_one_of = |keys: &[&str]| keys.iter().any(|other| is_within(key, other));
            let is_other = INSTEAD.iter().any(|keys| is_one_of(keys)) && !is_one_of(&given);
            // A name needs a password.
            let is_alone = key == "upstreams.username"
                && !given.iter().any(|given| given.starts_with("upstreams.password"));
            is_other || is_alone || key.starts_with("storage.directory")
        };
        let kept: Vec<Shown> =
            shown(ANNOTATED).into_iter().filter(|shown| !is_left_out(&shown.key)).collect();
        let text: Vec<&str> = kept.iter().map(|shown| shown.line.as_str()).collect();
        let in_force = in_force(&text.join("\n"));
        for key in given {
            let is_there = in_force.keys().any(|other| is_within(other, key));
            assert!(is_there, "{key} is not in {in_force:?}");
        }
        for Shown { key, value, .. } in kept.iter().filter(|shown| shows_its_value(shown)) {
            assert_eq!(in_force.get(key), Some(value), "{key}");
        }
    }
}

/// Whether a key is that of a section, or of something in it.
fn is_within(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether the value in force is written as in the file: not for sections, tables and secrets.
fn shows_its_value(shown: &Shown) -> bool {
    let is_table = shown.value.starts_with('{');
    let secrets = [
        "storage.s3.secret_key",
        "storage.s3.session_token",
        "upstreams.password",
        "upstreams.token",
        "cluster.secret",
    ];
    let is_secret = secrets.contains(&shown.key.as_str());
    !shown.value.is_empty() && !is_table && !is_secret
}
