//! Replays the seeds of the fuzz targets, without libFuzzer: what fuzzing once found stays fixed, even where
//! nobody builds `tests/fuzz`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, ensure};

#[path = "../fuzz/checks/challenge.rs"]
mod challenge;
#[path = "../fuzz/checks/chunk_table.rs"]
mod chunk_table;
#[path = "../fuzz/checks/content_range.rs"]
mod content_range;
#[path = "../fuzz/checks/digest.rs"]
mod digest;
#[path = "../fuzz/checks/docker_config.rs"]
mod docker_config;
#[path = "../fuzz/checks/image.rs"]
mod image;
#[path = "../fuzz/checks/link.rs"]
mod link;
#[path = "../fuzz/checks/manifest.rs"]
mod manifest;
#[path = "../fuzz/checks/mirror_words.rs"]
mod mirror_words;
#[path = "../fuzz/checks/name.rs"]
mod name;
#[path = "../fuzz/checks/node_words.rs"]
mod node_words;
#[path = "../fuzz/checks/pattern.rs"]
mod pattern;
#[path = "../fuzz/checks/peer_answer.rs"]
mod peer_answer;
#[path = "../fuzz/checks/peer_request.rs"]
mod peer_request;
#[path = "../fuzz/checks/quota.rs"]
mod quota;
#[path = "../fuzz/checks/range.rs"]
mod range;
#[path = "../fuzz/checks/route.rs"]
mod route;
#[path = "../fuzz/checks/settings.rs"]
mod settings;
#[path = "../fuzz/checks/upload.rs"]
mod upload;

/// One test for each target, and the list of all targets: made together, so that none is listed and not run.
macro_rules! replay_each {
    ($($test:ident: $target:literal => $check:expr;)*) => {
        const TARGETS: &[&str] = &[$($target),*];

        $(
            #[test]
            fn $test() -> anyhow::Result<()> {
                replay($target, $check)
            }
        )*
    };
}

replay_each! {
    challenges_hold: "challenge" => |seed| challenge::check(text(seed));
    chunk_tables_hold: "chunk_table" => chunk_table::check;
    content_ranges_hold: "content_range" => |seed| content_range::check(text(seed));
    digests_hold: "digest" => digest::check;
    docker_configs_hold: "docker_config" => |seed| docker_config::check(text(seed));
    images_hold: "image" => |seed| image::check(text(seed));
    links_hold: "link" => |seed| link::check(text(seed));
    manifests_hold: "manifest" => manifest::check;
    mirror_words_hold: "mirror_words" => mirror_words::check;
    names_hold: "name" => |seed| name::check(text(seed));
    node_words_hold: "node_words" => |seed| node_words::check(text(seed));
    patterns_hold: "pattern" => |seed| pattern::check(text(seed));
    peer_answers_hold: "peer_answer" => |seed| peer_answer::check(text(seed));
    peer_requests_hold: "peer_request" => |seed| peer_request::check(text(seed));
    quotas_hold: "quota" => |seed| quota::check(text(seed));
    ranges_hold: "range" => |seed| range::check(text(seed));
    routes_hold: "route" => |seed| route::check(text(seed));
    settings_hold: "settings" => |seed| settings::check(text(seed));
    uploads_hold: "upload" => upload::check;
}

#[test]
fn every_target_and_every_folder_of_seeds_is_replayed() -> anyhow::Result<()> {
    let replayed: BTreeSet<PathBuf> = TARGETS.iter().map(PathBuf::from).collect();
    for folder in ["seeds", "targets"] {
        let entries = entries(&fuzz().join(folder))?;
        let there: BTreeSet<PathBuf> =
            entries.iter().filter_map(|path| path.file_stem()).map(PathBuf::from).collect();
        assert_eq!(there, replayed, "tests/fuzz/{folder} and the targets of this test differ");
    }
    Ok(())
}

/// Runs the check on every seed of the target, also on those after one that fails.
fn replay(target: &str, check: fn(&[u8])) -> anyhow::Result<()> {
    let seeds = entries(&fuzz().join("seeds").join(target))?;
    ensure!(!seeds.is_empty(), "{target} has no seeds");
    let mut failed = Vec::new();
    for path in seeds {
        let seed = fs::read(&path).with_context(|| path.display().to_string())?;
        let name = path.display().to_string();
        // A thread's name is in the message of its panic, and of a stack overflow, which nothing can catch.
        let checking = thread::Builder::new().name(name.clone()).spawn(move || check(&seed))?;
        if checking.join().is_err() {
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "these seeds of {target} fail:\n{}", failed.join("\n"));
    Ok(())
}

/// A seed as a target that fuzzes text is given it: up to the first byte that is not UTF-8.
fn text(seed: &[u8]) -> &str {
    seed.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// The paths in a folder, in order.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths =
        read.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<PathBuf>>>()?;
    paths.sort();
    Ok(paths)
}
