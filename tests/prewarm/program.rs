//! Running `millpond prewarm` as a process.

use std::{
    io,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::process::Command;

/// No run takes this long, whatever else the machine does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The command; what it starts does not outlive its handle. Its output is no terminal. An interrupt ends it, also
/// where this process was started with interrupts ignored, as shells start what runs in the background.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/env");
    command
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_millpond"), "prewarm"])
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs it to its end.
pub(crate) async fn run(arguments: &[&str]) -> Outcome {
    end(command(arguments).output()).await
}

/// Waits for the end of a run.
pub(crate) async fn end(running: impl Future<Output = io::Result<Output>>) -> Outcome {
    let ended = tokio::time::timeout(PATIENCE, running).await;
    let output = ended.expect("it ends").expect("it can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

impl Outcome {
    /// Fails unless it ended with `code` and every one of `parts` is in what it said.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in:\n{}", self.stderr);
        }
    }
}
