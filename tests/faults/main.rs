//! Clusters of real processes in which something fails in the middle of a storm: nodes, lines between them, the bucket.
//!
//! Each test says what is pulled while it fails, and how often the bucket may be asked for a part then.

#![cfg(test)]

mod bucket;
mod bucket_files;
mod cluster;
mod coming_going;
mod content;
mod damage;
mod http;
mod keys;
mod killed;
mod network;
mod partition;
#[path = "../support/ports.rs"]
mod ports;
mod process;
mod relay;
#[path = "../support/s3_server.rs"]
mod s3_server;
mod slow;
mod storm;
mod views;
