//! Fuzzes the images on the command line of `millpond prewarm`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/image.rs"]
mod image;

fuzz_target!(|text: &str| image::check(text));
