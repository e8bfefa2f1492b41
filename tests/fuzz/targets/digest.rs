//! Fuzzes digests.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/digest.rs"]
mod digest;

fuzz_target!(|bytes: &[u8]| digest::check(bytes));
