//! One process.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::network::{Network, Number};

/// Lines of its log that are shown if a test fails.
const SHOWN_LINES: usize = 60;

/// A process of Millpond. It does not outlive its handle.
pub(crate) struct Process {
    child: Child,
    name: String,
    pub(crate) url: String,
    pub(crate) admin_url: String,
    folder: TempDir,
}

impl Process {
    /// A node of a cluster, whose name is kept in its `folder`.
    pub(crate) fn node(
        (network, number): (&Network, Number),
        (api, admin): (u16, u16),
        config: &str,
    ) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).expect("a folder");
        std::fs::write(disk.join("node-id"), crate::content::id(number).to_string())
            .expect("a file");
        let mut command = command(folder.path(), (api, admin), config);
        let child = network.spawn(number, &mut command);
        Self::of((child, folder), format!("node {number}"), (api, admin))
    }

    /// A process of its own.
    pub(crate) fn alone(ports: (u16, u16), config: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let child = command(folder.path(), ports, config).spawn().expect("the program starts");
        Self::of((child, folder), "the one that pushes".to_owned(), ports)
    }

    fn of((child, folder): (Child, TempDir), name: String, (api, admin): (u16, u16)) -> Self {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        Self { child, name, url: url(api), admin_url: url(admin), folder }
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Tells it to end.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill can be run").success());
    }

    /// Whether it has ended, and that well.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait().expect("it can be asked");
        assert!(ended.is_none_or(|status| status.success()), "{}: {ended:?}", self.name);
        ended.is_some()
    }

    fn show_log(&self) {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        eprintln!("--- the end of the log of {}:\n{shown}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended before.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            self.show_log();
        }
    }
}

fn command(folder: &Path, (api, admin): (u16, u16), config: &str) -> Command {
    let config = format!(
        "log: {{level: info, access: false}}\n\
         api: {{listen: ['127.0.0.1:{api}'], admin: '127.0.0.1:{admin}'}}\n\
         upstreams: []\n\
         cache: {{memory: 128MiB, disk: {{path: disk, size: 64MiB}}}}\n\
         {config}"
    );
    std::fs::write(folder.join("millpond.yaml"), config).expect("a file");
    let log = File::create(folder.join("log")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command
        .args(["serve", "--config", "millpond.yaml"])
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}
