//! What clients see: every behaviour of the distribution specification and what it leaves open, through
//! real sockets, on a directory and on S3.

#![cfg(test)]

/// Every behaviour of a module as two tests: on a directory and on S3.
macro_rules! on_both_backends {
    ($($name:ident),* $(,)?) => {
        mod directory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::node::Backend::Directory).await;
                }
            )*
        }

        mod s3 {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::node::Backend::S3).await;
                }
            )*
        }
    };
}

mod admin;
mod blobs;
mod catalog;
#[expect(dead_code, reason = "the server with these certificates is Millpond here")]
#[path = "../support/certificates.rs"]
mod certificates;
mod chunk_faults;
mod chunk_tables;
mod chunks;
mod client;
mod cluster;
mod cluster_links;
mod cluster_status;
mod connections;
mod content;
mod data_sets;
mod deletes;
mod disk;
mod downloads;
mod errors;
mod faults;
mod locations;
mod manifests;
mod mounts;
#[path = "../support/node.rs"]
mod node;
mod ping;
#[path = "../support/ports.rs"]
mod ports;
mod raw;
mod referrers;
mod s3_requests;
#[path = "../support/s3_server.rs"]
mod s3_server;
mod sessions;
mod sessions_on_nodes;
mod tags;
mod tls;
mod uploads_purge;
