//! Fuzzes answers of other nodes.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/peer_answer.rs"]
mod peer_answer;

fuzz_target!(|text: &str| peer_answer::check(text));
