//! Running `millpond` as a process.

use std::{path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::process::Command;

/// No run takes this long, whatever else the machine does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Exit status for a configuration that cannot be used.
pub(crate) const UNUSABLE: i32 = 64;

/// The program, in a folder of its own and with an environment of its own.
pub(crate) struct Program {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder can be made");
        Self { folder, environment: Vec::new() }
    }

    /// Where it runs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in its folder.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.folder().join(name), text).expect("a temporary file can be written");
        self
    }

    /// A variable of its environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command that runs it; it does not outlive its handle.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command
            .args(arguments)
            .current_dir(self.folder())
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Outcome {
        let ended = tokio::time::timeout(PATIENCE, self.command(arguments).output()).await;
        let output = ended.expect("it ends").expect("it can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// Fails unless every one of `parts` is in `text`.
pub(crate) fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
