//! Fuzzes `ratelimit-limit` and `ratelimit-remaining` headers of upstreams.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/quota.rs"]
mod quota;

fuzz_target!(|text: &str| quota::check(text));
