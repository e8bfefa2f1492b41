//! A load generator for container registries.
//!
//! It measures one row of work (`run`) against any registry, prepares what the reading rows read
//! (`seed`), and holds a crowd of clients against one server while watching its memory
//! (`memory`). For mirrors it is both sides: the registry that is mirrored (`upstream`) and the
//! clients of the mirror (`pull`). It also gets one object once, from a registry or a bucket
//! (`download`), and is one of the clients of a storm that comes from many places (`storm`). The
//! scripts beside it start the servers and call it.
//!
//! One thread drives every connection: the machine's other cores belong to the server. Its own
//! CPU time is part of each report, so that a row which measured the client shows it.

#![expect(clippy::print_stdout, reason = "the report is this program's output")]

mod address;
mod arguments;
mod client;
mod content;
mod count;
mod crowd;
mod download;
mod line;
mod manifest;
mod memory;
mod original;
mod process;
mod pull;
mod push;
mod report;
mod row;
mod sealed;
mod storm;
mod upstream;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};

use crate::arguments::{Action, Arguments};

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let Some(action) = arguments.action else {
        // `cargo test --all-targets` and a bare `cargo bench` run this without an action, and
        // there is no server to measure: that is no failure.
        Arguments::command().print_help().context("cannot print the help")?;
        return Ok(());
    };
    // Clients stand for many hosts: with one thread they would be what is measured wherever a server is faster. The
    // upstream stands for a single line, and of a storm's clients there is a process each.
    let mut runtime = match action {
        Action::Upstream(_) | Action::Storm(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        match action {
            Action::Run(run) => row::run(run).await,
            Action::Seed(seed) => pull::seed(seed).await,
            Action::Memory(memory) => memory::run(memory).await,
            Action::Upstream(arguments) => upstream::run(arguments).await,
            Action::Pull(arguments) => crowd::run(arguments).await,
            Action::Download(arguments) => download::run(arguments).await,
            Action::Storm(arguments) => storm::run(arguments).await,
        }
    })
}
