//! The configuration: every module's settings, from one file and the environment.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    api, cache, cluster, registry,
    runtime::{ByteSize, Environment, Section, Settings, SettingsError},
    storage, telemetry, upstream,
};

/// Memory for all buffers of transfers.
const BUFFERS: ByteSize = ByteSize::mebibytes(96);

/// Less than this, and a single upload to S3 would have no room for its parts.
const BUFFERS_LEAST: ByteSize = ByteSize::mebibytes(16);

const BUFFERS_MOST: ByteSize = ByteSize(1 << 40);

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Section `log`.
    pub log: telemetry::Config,
    /// Section `api`.
    pub api: api::Config,
    /// Section `storage`.
    pub storage: storage::Config,
    /// Section `registry`.
    pub registry: registry::Config,
    /// Section `memory`.
    pub memory: MemoryConfig,
    /// Section `cache`.
    pub cache: cache::Config,
    /// Section `cluster`.
    pub cluster: cluster::Config,
    /// List `upstreams`.
    pub upstreams: upstream::Config,
}

/// Limits on memory, section `memory`.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// Bytes that the buffers of all transfers hold together, at least 16 MiB. Default: 96 MiB. Transfers
    /// beyond it wait for each other.
    pub buffers: ByteSize,
}

/// A configuration and how it was understood.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Every key with its value in force, as YAML, secrets hidden.
    pub effective: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It can be read and not be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl Config {
    /// Reads the file, if there is one, and the environment.
    ///
    /// # Errors
    /// [`Error::File`], or [`Error::Settings`] with everything that is wrong.
    pub fn load(file: Option<&Path>, environment: &dyn Environment) -> Result<Loaded, Error> {
        let (name, text) = match file {
            None => ("the environment".to_owned(), String::new()),
            Some(path) => {
                let text = fs::read_to_string(path);
                let text = text.map_err(|source| Error::File { path: path.to_owned(), source })?;
                (path.display().to_string(), text)
            }
        };
        Ok(Self::parse(&name, &text, environment)?)
    }

    /// Reads the `text` of the file called `name`, and the environment.
    ///
    /// # Errors
    /// [`SettingsError`] with everything that is wrong.
    pub fn parse(
        name: &str,
        text: &str,
        environment: &dyn Environment,
    ) -> Result<Loaded, SettingsError> {
        let settings = Settings::new(name, text, environment);
        let mut root = settings.root();
        let config = Self {
            log: telemetry::Config::read(&mut root.section("log")),
            api: api::Config::read(&mut root.section("api")),
            storage: storage::Config::read(&mut root.section("storage")),
            registry: registry::Config::read(&mut root.section("registry")),
            memory: MemoryConfig::read(&mut root.section("memory")),
            cache: cache::Config::read(&mut root.section("cache")),
            cluster: cluster::Config::read(&mut root.section("cluster")),
            upstreams: upstream::Config::read(&mut root),
        };
        config.check_listeners(&root);
        config.check_buffers(&root);
        config.check_cluster(&root);
        drop(root);
        Ok(Loaded { config, effective: settings.finish()? })
    }
}

impl Config {
    /// Listeners for an upstream are under the same rule as those of the registry.
    fn check_listeners(&self, root: &Section<'_>) {
        // Which is the safe default, and the only one that forbids anything.
        if self.api.anonymous != Default::default() {
            return;
        }
        for (number, upstream) in self.upstreams.upstreams.iter().enumerate() {
            for address in upstream.listen.iter().filter(|address| !address.ip().is_loopback()) {
                let message = "other machines can reach this address and nobody has to log in; listen \
                               on loopback, or accept it with api.anonymous: anywhere";
                let key = format!("upstreams.{number}.listen");
                root.problem(&key, Some(address.to_string()), message);
            }
        }
    }

    /// Nodes exchange what they read from a bucket.
    fn check_cluster(&self, root: &Section<'_>) {
        let Some(listen) = self.cluster.listen else { return };
        if matches!(self.storage, storage::Config::Directory { .. }) {
            let message = "nodes of a cluster have a bucket in common, but storage.s3 is not given";
            root.problem("cluster.listen", Some(listen.to_string()), message);
        }
    }

    /// Parts of uploads to a bucket lie in the buffers as a whole.
    fn check_buffers(&self, root: &Section<'_>) {
        let (least, buffers) = (ByteSize(self.storage.least_buffer_bytes()), self.memory.buffers);
        // With fewer than these, that has been told.
        if (BUFFERS_LEAST..least).contains(&buffers) {
            let message = format!("at least {least} is expected, which is twice storage.s3.part");
            root.problem("memory.buffers", Some(buffers.to_string()), &message);
        }
    }
}

impl MemoryConfig {
    fn read(section: &mut Section<'_>) -> Self {
        Self { buffers: section.get_within("buffers", BUFFERS, BUFFERS_LEAST..=BUFFERS_MOST) }
    }
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the environment"
    )]
    fn variables(&self) -> Vec<(String, String)> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(text).collect()
    }

    fn read_file(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Environment for Nothing {
        fn variables(&self) -> Vec<(String, String)> {
            Vec::new()
        }

        fn read_file(&self, _path: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn no_configuration_is_a_good_one() {
        let loaded = Config::parse("none", "", &Nothing).unwrap();
        assert!(matches!(loaded.config.storage, storage::Config::Directory { .. }));
        assert!(loaded.config.api.listen.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn what_is_shown_as_effective_is_itself_a_configuration() {
        let loaded = Config::parse("none", "", &Nothing).unwrap();
        let again = Config::parse("shown", &loaded.effective, &Nothing).unwrap();
        assert_eq!(again.effective, loaded.effective);
    }

    #[test]
    fn listening_to_everybody_must_be_asked_for() {
        let text = "api: {listen: '0.0.0.0:5000'}";
        let error = Config::parse("m.yml", text, &Nothing).unwrap_err();
        assert_eq!(error.problems.len(), 1);
        assert_eq!(error.problems[0].key, "api.listen");
        let text = "api: {listen: '0.0.0.0:5000', anonymous: anywhere}";
        assert!(Config::parse("m.yml", text, &Nothing).is_ok());
    }
}
