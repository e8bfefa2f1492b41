//! The log, as text or as JSON lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use crate::runtime::{Section, Setting, choices};

/// Target of the access log's events, one for each request.
pub const ACCESS_TARGET: &str = "access";

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

choices!(Level: "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace);

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    #[default]
    Text,
    Json,
}

choices!(Format: "text" => Text, "json" => Json);

/// Settings of the log, section `log`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The least important events that are logged. Default: info. Libraries log from warn on.
    level: Level,
    /// Text for people, JSON for machines. Default: text.
    format: Format,
    /// Whether each request is logged when it has been answered. Default: true.
    access: bool,
}

impl Config {
    /// Reads the section, reporting what is wrong with it.
    pub fn read(section: &mut Section<'_>) -> Self {
        Self {
            level: section.get("level", Level::default()),
            format: section.get("format", Format::default()),
            access: section.get("access", true),
        }
    }

    fn filter(&self) -> EnvFilter {
        let access = if self.access { "info" } else { "off" };
        EnvFilter::new(format!("warn,millpond={},{ACCESS_TARGET}={access}", self.level.show()))
    }
}

/// Starts logging. Only the first call in a process has an effect.
pub fn init(config: &Config) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.filter())
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let already_started = match config.format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    drop(already_started);
}
