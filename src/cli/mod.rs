//! The command line.

mod prewarm;
mod server;
mod status;
mod text;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use prewarm::{Image, InvalidImage};

use crate::{
    api::Certificates,
    config::{Config, Loaded, ProcessEnvironment},
    runtime::{ByteBudget, Shutdown, Tasks},
    server::{Error as ServerError, Server},
    storage, telemetry,
    upstream::Upstreams,
};

/// Exit status for a configuration or for arguments that cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_UNUSABLE: u8 = 64;

/// Threads for file access. Enough for a slow shared file system to have work waiting; few enough that their
/// stacks and allocator caches stay small beside the buffers.
const BLOCKING_THREADS: usize = 64;

/// How long such a thread waits for more work. Starting one takes longer than what most of them are asked to do, so a
/// registry that is asked something now and then should find some.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_mins(10);

/// A container registry on a directory or an S3 bucket, in docker-registry's storage layout.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve. Without a configuration: the registry on 127.0.0.1:5000, health and metrics on
    /// 127.0.0.1:5002, everything kept in ./millpond-data.
    Serve(ConfigArgument),
    /// Check a configuration and the storage it names, and show what is in force.
    Check(ConfigArgument),
    /// Pull images through a running daemon, so that its caches and its storage hold them.
    Prewarm(prewarm::Arguments),
    /// Show what a running daemon knows of its cluster: who is there, and what goes from node to node.
    Status(status::Arguments),
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// YAML file with the configuration. Every key can be overridden from the environment:
    /// `storage.s3.bucket` is `MILLPOND_STORAGE__S3__BUCKET`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    match arguments.command {
        Command::Serve(argument) => configured(&argument, |loaded| serve(loaded.config)),
        Command::Check(argument) => configured(&argument, check),
        // Nothing of the daemon's configuration concerns it: the daemon may be on another machine.
        Command::Prewarm(arguments) => on_runtime(prewarm::run(arguments)),
        Command::Status(arguments) => on_runtime(status::run(arguments)),
    }
}

/// Prints help, the version, or what is wrong with the command line.
fn explain(error: &clap::Error) -> ExitCode {
    let _nobody_reads = error.print();
    let has_own_status = |name: std::ffi::OsString| name == "prewarm" || name == "status";
    // The other commands keep clap's status for a wrong command line: 64 from them means the configuration.
    if error.use_stderr() && std::env::args_os().nth(1).is_some_and(has_own_status) {
        return ExitCode::from(EXIT_UNUSABLE);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

/// Does `work` with the configuration that `argument` names.
fn configured<F: Future<Output = ExitCode>>(
    argument: &ConfigArgument,
    work: impl FnOnce(Loaded) -> F,
) -> ExitCode {
    let loaded = match Config::load(argument.config.as_deref(), &ProcessEnvironment) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error, EXIT_UNUSABLE),
    };
    telemetry::init(&loaded.config.log);
    on_runtime(work(loaded))
}

fn on_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    match builder
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .build()
    {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => fail(&error, 1),
    }
}

async fn serve(config: Config) -> ExitCode {
    let shutdown = Shutdown::new();
    // Before anything is announced: until then a signal ends the process as it ends any other.
    let signals = Signals::new();
    let server = match Server::bind(config, shutdown.clone()).await {
        Ok(server) => server,
        Err(error) => return fail(&error, exit_status(&error)),
    };
    let signals = tokio::spawn(async move {
        signals.wait().await;
        shutdown.begin();
    });
    let cut_off = server.run().await;
    signals.abort();
    if cut_off > 0 {
        tracing::warn!(tasks = cut_off, "the grace period is over; what was under way is cut off");
    }
    ExitCode::SUCCESS
}

/// SIGTERM and SIGINT, caught from now on.
struct Signals(io::Result<(Signal, Signal)>);

impl Signals {
    fn new() -> Self {
        let both = signal(SignalKind::terminate())
            .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
        Self(both)
    }

    /// Waits for one of them.
    async fn wait(self) {
        match self.0 {
            Ok((mut terminate, mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            Err(error) => {
                tracing::error!(%error, "signals cannot be received: only SIGKILL ends this process");
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn check(loaded: Loaded) -> ExitCode {
    if let Err(error) = read_files(&loaded.config) {
        return fail(&error, exit_status(&error));
    }
    let mut output = std::io::stdout();
    let _nobody_reads = output.write_all(loaded.effective.as_bytes());
    match probe(&loaded.config).await {
        Ok(name) => {
            let _nobody_reads =
                writeln!(output, "# The configuration is good, and {name} can be used.");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, 1),
    }
}

/// Reads what settings name: the registry's certificate and key, and certificates, keys and credentials of
/// upstreams. Asks none of them.
fn read_files(config: &Config) -> Result<(), ServerError> {
    // Only the first call in a process has an effect; the others agree with it.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    config.api.tls.clone().map(Certificates::load).transpose()?;
    Upstreams::new(&config.upstreams, &Tasks::new(), &prometheus::Registry::new())?;
    Ok(())
}

/// The status with which the daemon that does not start ends, and the check that finds out before.
const fn exit_status(error: &ServerError) -> u8 {
    match error {
        ServerError::Tls(_) | ServerError::PeerCertificates(_) | ServerError::PeerSecret(_) => {
            EXIT_UNUSABLE
        }
        ServerError::Storage(_)
        | ServerError::Upstreams(_)
        | ServerError::Join(_)
        | ServerError::Bind { .. } => 1,
    }
}

/// Opens the storage and writes, reads and deletes an object there. Returns what it is called.
async fn probe(config: &Config) -> Result<String, storage::Error> {
    let budget = ByteBudget::new(config.memory.buffers.0);
    let storage = storage::Driver::open(&config.storage, budget).await?.shared();
    storage::probe(&*storage).await?;
    Ok(storage.to_string())
}

/// Says on standard error why this is the end, with everything that caused it.
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let mut text = format!("millpond: {error}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // Some errors already quote their cause.
        if !text.contains(&line) {
            text.push_str(&format!("  caused by: {line}\n"));
        }
        cause = error.source();
    }
    let _nobody_reads = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_defined() {
        Arguments::command().debug_assert();
    }
}
