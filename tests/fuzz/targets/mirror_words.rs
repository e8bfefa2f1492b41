//! Fuzzes what nodes ask each other about another registry, and answer.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/mirror_words.rs"]
mod mirror_words;

fuzz_target!(|form: &[u8]| mirror_words::check(form));
