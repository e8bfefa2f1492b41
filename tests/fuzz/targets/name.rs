//! Fuzzes names, tags and references.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/name.rs"]
mod name;

fuzz_target!(|text: &str| name::check(text));
