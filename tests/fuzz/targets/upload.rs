//! Fuzzes upload sessions.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/upload.rs"]
mod upload;

fuzz_target!(|bytes: &[u8]| upload::check(bytes));
