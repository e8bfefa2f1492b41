//! Fuzzes `Content-Range` headers of upstreams.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/content_range.rs"]
mod content_range;

fuzz_target!(|text: &str| content_range::check(text));
