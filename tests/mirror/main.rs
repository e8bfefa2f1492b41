//! The mirror: a real node in front of registries that are scripted to do what real ones do rarely.

#![cfg(test)]

mod ahead;
mod blobs;
#[path = "../support/fake_upstream.rs"]
mod fake_upstream;
mod faults;
mod fixture;
mod held;
mod keeping;
mod listeners;
mod lists;
mod manifest_faults;
mod manifests;
mod names;
#[path = "../support/node.rs"]
mod node;
mod nodes;
mod nodes_faults;
#[path = "../support/ports.rs"]
mod ports;
mod ranges;
mod readers;
mod refusals;
#[path = "../support/s3_server.rs"]
mod s3_server;
mod stale;
mod tags;
