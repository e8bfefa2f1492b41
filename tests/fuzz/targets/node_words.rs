//! Fuzzes what registries of one cluster say to each other.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/node_words.rs"]
mod node_words;

fuzz_target!(|text: &str| node_words::check(text));
