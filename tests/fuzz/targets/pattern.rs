//! Fuzzes patterns of repository names.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/pattern.rs"]
mod pattern;

fuzz_target!(|text: &str| pattern::check(text));
