//! Fuzzes `Range` and `Content-Range` headers.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/range.rs"]
mod range;

fuzz_target!(|text: &str| range::check(text));
