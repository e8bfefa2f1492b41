//! Fuzzes requests of other nodes.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/peer_request.rs"]
mod peer_request;

fuzz_target!(|text: &str| peer_request::check(text));
