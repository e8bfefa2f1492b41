//! Fuzzes Docker's `config.json`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/docker_config.rs"]
mod docker_config;

fuzz_target!(|text: &str| docker_config::check(text));
