//! Which storage, and how it is opened.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Error, Key, SharedStorage,
    fs::Directory,
    s3::{self, Checksums, ConfigError, Encryption, S3},
};
use crate::runtime::{ByteBudget, ByteSize, Section, Setting, choices};

/// Where everything is kept without a configuration.
const DIRECTORY: &str = "./millpond-data";

/// Settings of the storage, section `storage`: either `directory` or `s3`.
#[derive(Clone, Debug)]
pub enum Config {
    /// A directory.
    Directory {
        /// Its path; made if it is not there. Default: `./millpond-data`.
        path: PathBuf,
    },
    /// A bucket.
    S3(Box<s3::Config>),
}

impl Config {
    /// Reads the section, reporting what is wrong with it.
    pub fn read(section: &mut Section<'_>) -> Self {
        let directory = section.optional_section("directory");
        let s3 = section.optional_section("s3");
        if directory.is_some() && s3.is_some() {
            section.problem("s3", None, "give either storage.directory or storage.s3, not both");
        }
        match (directory, s3) {
            (Some(mut directory), Some(mut s3)) => {
                read_path(&mut directory);
                Self::S3(Box::new(read_s3(&mut s3)))
            }
            (None, Some(mut s3)) => Self::S3(Box::new(read_s3(&mut s3))),
            (Some(mut directory), None) => Self::Directory { path: read_path(&mut directory) },
            (None, None) => Self::Directory { path: read_path(&mut section.section("directory")) },
        }
    }
}

impl Config {
    /// The smallest memory for buffers with which the storage can be written to.
    #[must_use]
    pub const fn least_buffer_bytes(&self) -> u64 {
        match self {
            Self::S3(config) => config.least_buffer_bytes(),
            Self::Directory { .. } => 0,
        }
    }
}

fn read_path(section: &mut Section<'_>) -> PathBuf {
    section.get("path", PathBuf::from(DIRECTORY))
}

fn read_s3(section: &mut Section<'_>) -> s3::Config {
    let bucket = section.optional::<String>("bucket").unwrap_or_default();
    if bucket.is_empty() {
        section.problem("bucket", None, "the name of the bucket is expected");
    }
    let defaults = s3::Config::new(bucket);
    let config = s3::Config {
        endpoint: section.optional("endpoint"),
        ca_file: section.optional("ca_file"),
        region: section.optional("region"),
        prefix: read_prefix(section),
        path_style: section.optional("path_style"),
        access_key: section.optional("access_key"),
        secret_key: section.secret("secret_key", "secret_key_file"),
        session_token: section.secret("session_token", "session_token_file"),
        checksums: section.get("checksums", defaults.checksums),
        server_side_encryption: read_encryption(section),
        storage_class: section.optional("storage_class"),
        part_bytes: section.get("part", ByteSize(defaults.part_bytes)).0,
        write_concurrency: section.get("write_concurrency", defaults.write_concurrency),
        spool: section.get("spool", defaults.spool),
        compose_concurrency: section.get("compose_concurrency", defaults.compose_concurrency),
        connect_timeout: section.get("connect_timeout", defaults.connect_timeout),
        request_timeout: section.get("request_timeout", defaults.request_timeout),
        attempts: u32::try_from(section.get("attempts", 4)).unwrap_or(u32::MAX),
        retry_backoff: section.get("retry_backoff", defaults.retry_backoff),
        bucket: defaults.bucket,
    };
    if !config.bucket.is_empty()
        && let Err(error) = config.check()
    {
        section.problem(key_of(error), None, error.to_string());
    }
    config
}

/// The key that an error is about.
const fn key_of(error: ConfigError) -> &'static str {
    match error {
        ConfigError::Endpoint => "endpoint",
        ConfigError::CaWithoutTls => "ca_file",
        ConfigError::Bucket => "bucket",
        ConfigError::HalfAKey => "access_key",
        ConfigError::PartBytes => "part",
        ConfigError::Zero => "attempts",
    }
}

/// docker-registry's `rootdirectory`, with or without slashes around it.
fn read_prefix(section: &mut Section<'_>) -> Option<Key> {
    let text = section.optional::<String>("prefix")?;
    let trimmed = text.trim_matches('/');
    if trimmed.is_empty() {
        return None;
    }
    let prefix = trimmed.parse();
    if prefix.is_err() {
        section.problem("prefix", Some(text), "plain names joined by '/' are expected");
    }
    prefix.ok()
}

fn read_encryption(section: &mut Section<'_>) -> Option<Encryption> {
    let encryption = section.optional::<Encryption>("server_side_encryption");
    let key_id = section.optional::<String>("kms_key_id");
    match (encryption, key_id) {
        (Some(Encryption::Kms { .. }), key_id) => Some(Encryption::Kms { key_id }),
        (other, None) => other,
        (other, Some(_)) => {
            section.problem(
                "kms_key_id",
                None,
                "this goes with server_side_encryption: aws:kms only",
            );
            other
        }
    }
}

choices!(Checksums: "required" => Required, "when_supported" => WhenSupported);

impl Setting for Encryption {
    const ACCEPTED: &'static str = "AES256 or aws:kms";

    fn read(text: &str) -> Option<Self> {
        match text {
            "AES256" => Some(Self::Aes256),
            "aws:kms" => Some(Self::Kms { key_id: None }),
            _ => None,
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Aes256 => "AES256".to_owned(),
            Self::Kms { .. } => "aws:kms".to_owned(),
        }
    }
}

/// A storage of one of the kinds, opened.
#[derive(Clone, Debug)]
pub enum Driver {
    /// A directory.
    Directory(Directory),
    /// A bucket.
    S3(S3),
}

impl Driver {
    /// Opens the storage. Buffers are paid for from `budget`.
    ///
    /// # Errors
    /// A directory that cannot be made, or a bucket that cannot be addressed.
    pub async fn open(config: &Config, budget: ByteBudget) -> Result<Self, Error> {
        match config {
            Config::Directory { path } => {
                Ok(Self::Directory(Directory::open(path.clone(), budget)?))
            }
            Config::S3(config) => Ok(Self::S3(S3::connect((**config).clone(), budget).await?)),
        }
    }

    /// The storage for those who use it.
    #[must_use]
    pub fn shared(&self) -> SharedStorage {
        match self {
            Self::Directory(directory) => Arc::new(directory.clone()),
            Self::S3(s3) => Arc::new(s3.clone()),
        }
    }

    /// Waits for what the driver does in the background, for at most `grace`.
    pub async fn finish(&self, grace: Duration) {
        match self {
            Self::Directory(_) => {}
            Self::S3(s3) => {
                let left = s3.finish(grace).await;
                if left > 0 {
                    tracing::warn!(left, "some abandoned writes are left to the next purge");
                }
            }
        }
    }
}
