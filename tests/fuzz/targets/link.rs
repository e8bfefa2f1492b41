//! Fuzzes `Link` headers of upstreams.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/link.rs"]
mod link;

fuzz_target!(|text: &str| link::check(text));
