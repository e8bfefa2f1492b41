//! How Millpond asks other registries: against a registry within the test, over real sockets.

#![cfg(test)]

mod access;
mod blobs;
mod credentials;
#[path = "../support/fake_upstream.rs"]
mod fake_upstream;
mod fixture;
mod limits;
mod lists;
mod manifests;
mod metrics;
mod redirects;
mod retries;
mod settings;
mod tls;
