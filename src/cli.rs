//! The command line.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{Config, Loaded, ProcessEnvironment},
    runtime::{ByteBudget, Shutdown},
    server::Server,
    storage, telemetry,
};

/// Exit status for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_CONFIGURATION: u8 = 64;

/// Threads for file access. Enough for a slow shared file system to have work waiting; few enough that their
/// stacks and allocator caches stay small beside the buffers.
const BLOCKING_THREADS: usize = 64;

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
    let arguments = Arguments::parse();
    let (Command::Serve(ConfigArgument { config }) | Command::Check(ConfigArgument { config })) =
        &arguments.command;
    let loaded = match Config::load(config.as_deref(), &ProcessEnvironment) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error, EXIT_CONFIGURATION),
    };
    telemetry::init(&loaded.config.log);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match arguments.command {
        Command::Serve(_) => runtime.block_on(serve(loaded.config)),
        Command::Check(_) => runtime.block_on(check(&loaded)),
    }
}

async fn serve(config: Config) -> ExitCode {
    let shutdown = Shutdown::new();
    // Before anything is announced: until then a signal ends the process as it ends any other.
    let signals = Signals::new();
    let server = match Server::bind(config, shutdown.clone()).await {
        Ok(server) => server,
        Err(error) => return fail(&error, 1),
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

async fn check(loaded: &Loaded) -> ExitCode {
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
