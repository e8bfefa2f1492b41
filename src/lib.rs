#![doc = include_str!("ARCHITECTURE.md")]

pub mod api;
pub mod cache;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod content;
pub mod oci;
pub mod registry;
pub mod runtime;
pub mod server;
pub mod storage;
pub mod telemetry;
pub mod upstream;
