//! Fuzzes paths of URLs.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/route.rs"]
mod route;

fuzz_target!(|path: &str| route::check(path));
