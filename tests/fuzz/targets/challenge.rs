//! Fuzzes `WWW-Authenticate` headers of upstreams.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/challenge.rs"]
mod challenge;

fuzz_target!(|text: &str| challenge::check(text));
