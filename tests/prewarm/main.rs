//! `millpond prewarm`, run as a process against a real node, with every request that it sends recorded.

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

mod arguments;
#[path = "../support/certificates.rs"]
mod certificates;
mod content;
mod failures;
mod front;
mod images;
#[path = "../support/node.rs"]
mod node;
mod platforms;
mod program;
#[path = "../support/s3_server.rs"]
mod s3_server;
mod tls;
