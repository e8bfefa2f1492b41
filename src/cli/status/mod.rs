//! `millpond status`: shows what a running daemon knows of its cluster.

mod table;

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use bytes::BytesMut;
use http::StatusCode;

use super::{EXIT_UNUSABLE, fail, server::Server, text::printable};
use crate::{
    cluster::Status,
    config::{self, Config, ProcessEnvironment},
};

/// Exit status if a node is silent or left alone.
const EXIT_UNWELL: u8 = 1;

/// Exit status if the daemon does not tell.
const EXIT_UNTOLD: u8 = 2;

/// Longest wait for the whole answer, which needs nothing but the daemon's memory.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most that is read of an answer: several times as much as 4096 nodes take.
const ANSWER_MAX_BYTES: usize = 8 << 20;

/// The end of `--help`.
const STATUSES: &str = "\
Exit status:
  0 if every node was heard lately and none is left alone, 1 if one is silent or could
  not be reached, 2 if the daemon does not answer or is in no cluster, 64 for arguments
  or a configuration that cannot be used.

  A node that has been stopped is shown as silent for ten minutes.";

/// The command line of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Arguments {
    /// Where the daemon tells its health and metrics. Without it: api.admin of the configuration.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<Server>,
    /// YAML file with the daemon's configuration, as for `serve`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what the daemon tells as JSON.
    #[arg(long)]
    json: bool,
}

/// Why the daemon does not tell.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// It cannot be reached, or its answer breaks off.
    #[error("{admin} does not answer")]
    Unreachable {
        /// The daemon.
        admin: Server,
        /// Why not.
        source: reqwest::Error,
    },
    /// It has said something else.
    #[error("{admin} answers {status}: {text}")]
    Refused {
        /// The daemon.
        admin: Server,
        /// The status.
        status: StatusCode,
        /// What it says.
        text: String,
    },
    /// It has said more than a daemon says.
    #[error("the answer of {admin} is longer than {ANSWER_MAX_BYTES} bytes")]
    TooLong {
        /// The daemon.
        admin: Server,
    },
    /// What it says is not understood.
    #[error("{admin} tells something that this version does not understand")]
    Form {
        /// The daemon.
        admin: Server,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Runs the command.
pub(super) async fn run(arguments: Arguments) -> ExitCode {
    let admin = match arguments.admin {
        Some(admin) => admin,
        None => match configured(arguments.config) {
            Ok(admin) => admin,
            Err(error) => return fail(&error, EXIT_UNUSABLE),
        },
    };
    let status = match ask(admin).await {
        Ok(status) => status,
        Err(error) => return fail(&error, EXIT_UNTOLD),
    };
    let text = if arguments.json { json(&status) } else { table::of(&status) };
    let _nobody_reads = io::stdout().write_all(text.as_bytes());
    if is_well(&status) { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNWELL) }
}

/// Where the daemon of a configuration tells its health.
fn configured(file: Option<PathBuf>) -> Result<Server, config::Error> {
    let config = Config::load(file.as_deref(), &ProcessEnvironment)?.config;
    Ok(Server::at(reachable(config.api.admin)))
}

/// Where a program on the same machine reaches who listens on an address.
const fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// Asks the daemon directly, whatever proxies the environment names.
async fn ask(admin: Server) -> Result<Status, Error> {
    // Only the first call in a process has an effect; the others agree with it.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .user_agent(concat!("millpond-status/", env!("CARGO_PKG_VERSION")));
    // An image of nothing but this program has no certificates, and without TLS needs none.
    let builder = if admin.has_tls() { builder } else { builder.tls_certs_only([]) };
    let unreachable = |error: reqwest::Error| {
        let (admin, source) = (admin.clone(), error.without_url());
        Error::Unreachable { admin, source }
    };
    let client = builder.build().map_err(unreachable)?;
    let answer = client.get(admin.url("/cluster")).send().await;
    let mut answer = answer.map_err(unreachable)?;
    let mut body = BytesMut::new();
    while let Some(bytes) = answer.chunk().await.map_err(unreachable)? {
        if body.len() + bytes.len() > ANSWER_MAX_BYTES {
            return Err(Error::TooLong { admin });
        }
        body.extend_from_slice(&bytes);
    }
    let status = answer.status();
    if status != StatusCode::OK {
        let text = printable(String::from_utf8_lossy(&body).trim_end());
        return Err(Error::Refused { admin, status, text });
    }
    serde_json::from_slice(&body).map_err(|source| Error::Form { admin, source })
}

/// Whether all nodes were heard lately and can be reached.
fn is_well(status: &Status) -> bool {
    !status.nodes.iter().any(|node| node.is_silent || node.breaker_seconds.is_some())
}

fn json(status: &Status) -> String {
    let text = serde_json::to_string_pretty(status);
    text.expect("numbers and words have a form in JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::{table::tests::example, *};

    #[test]
    fn a_node_that_is_silent_or_left_alone_makes_the_cluster_unwell() {
        let mut status = example();
        assert!(!is_well(&status));
        status.nodes[2].is_silent = false;
        assert!(!is_well(&status));
        status.nodes[2].breaker_seconds = None;
        assert!(is_well(&status));
    }

    #[test]
    fn what_is_printed_as_json_is_what_the_daemon_told() {
        let status = example();
        assert_eq!(serde_json::from_str::<Status>(&json(&status)).unwrap(), status);
    }

    #[test]
    fn an_address_for_all_of_the_machine_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:5002", "http://127.0.0.1:5002"),
            ("[::]:5002", "http://[::1]:5002"),
            ("10.0.0.7:1", "http://10.0.0.7:1"),
        ] {
            assert_eq!(Server::at(reachable(listen.parse().unwrap())).to_string(), asked);
        }
    }
}
