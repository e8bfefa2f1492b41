//! Fuzzes stored chunk tables.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/chunk_table.rs"]
mod chunk_table;

fuzz_target!(|form: &[u8]| chunk_table::check(form));
