//! What the driver has to be told.

use std::{path::PathBuf, time::Duration};

use crate::{runtime::Secret, storage::Key};

/// Smallest part that S3 takes, except as the last one of an object.
pub(super) const MIN_PART_BYTES: u64 = 5 << 20;

/// Largest object that S3 takes in one request.
pub(super) const MAX_PART_BYTES: u64 = 5 << 30;

/// Parts for which the memory for buffers must have room.
pub(super) const PARTS_IN_BUFFERS: u64 = 2;

/// Where content waits on its way into the bucket.
const SPOOL: &str = "./millpond-data/spool";

/// Where the bucket is, who asks, and how patiently.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the S3 server, `https://s3.example.org:9000`. Default: AWS in the region.
    pub endpoint: Option<String>,
    /// PEM file of certificates to trust beside the system's, for a server whose certificate is of a private
    /// authority. Read at start. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Region that requests are signed for. Default: what the AWS environment, profile or instance
    /// says; `us-east-1` where an endpoint is given.
    pub region: Option<String>,
    /// Name of the bucket. It must exist.
    pub bucket: String,
    /// Folder of the bucket below which everything is kept. Default: its root.
    pub prefix: Option<Key>,
    /// Whether the bucket's name goes into the path instead of the host name. Default: only where an
    /// endpoint is given.
    pub path_style: Option<bool>,
    /// Id of the access key. Default: the AWS credential chain (environment, profile, web identity,
    /// ECS, IMDS).
    pub access_key: Option<String>,
    /// Secret of the access key. Set together with `access_key`.
    pub secret_key: Option<Secret>,
    /// Token of a temporary access key. Default: none.
    pub session_token: Option<Secret>,
    /// When requests and answers carry checksums. Default: only where S3 demands it, because many
    /// servers know no others.
    pub checksums: Checksums,
    /// How S3 encrypts what it stores. Default: as the bucket says.
    pub server_side_encryption: Option<Encryption>,
    /// Storage class of new objects, `INTELLIGENT_TIERING` for example. Default: as the bucket says.
    pub storage_class: Option<String>,
    /// Bytes buffered for one request of a large write: 5 MiB to 5 GiB, default 8 MiB. An object no
    /// larger takes a single request. It doubles every 1000 parts of an object.
    pub part_bytes: u64,
    /// Parts of one write that are under way at once, default 4. Each holds its buffer.
    pub write_concurrency: usize,
    /// Server-side copies of one composition that are under way at once, default 16.
    pub compose_concurrency: usize,
    /// Folder on this machine's disk for content on its way here from another registry, default
    /// `./millpond-data/spool`. Its files have no names and are gone with the process.
    pub spool: PathBuf,
    /// Longest wait for a connection, default 3 s.
    pub connect_timeout: Duration,
    /// Longest silence: until a request is answered, and between two pieces of a body; default 30 s.
    /// Sending a body may take longer by the time it needs at 256 KiB/s, and what S3 does on its own
    /// side, copying and completing, ten times as long.
    pub request_timeout: Duration,
    /// Times a request is tried in all before it fails, default 4.
    pub attempts: u32,
    /// Longest wait before the first retry, default 500 ms. It doubles from retry to retry, up to 20 s,
    /// and is jittered.
    pub retry_backoff: Duration,
}

/// When requests and answers carry checksums of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// Where S3 demands it: batch deletes.
    #[default]
    Required,
    /// Wherever the protocol has them: for AWS and servers as new as it.
    WhenSupported,
}

/// How S3 encrypts what it stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of the server.
    Aes256,
    /// With a key of its key management service.
    Kms {
        /// The key; default the one of the account.
        key_id: Option<String>,
    },
}

impl Config {
    /// The defaults, for a bucket.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            endpoint: None,
            ca_file: None,
            region: None,
            bucket: bucket.into(),
            prefix: None,
            path_style: None,
            access_key: None,
            secret_key: None,
            session_token: None,
            checksums: Checksums::default(),
            server_side_encryption: None,
            storage_class: None,
            part_bytes: 8 << 20,
            write_concurrency: 4,
            compose_concurrency: 16,
            spool: PathBuf::from(SPOOL),
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(30),
            attempts: 4,
            retry_backoff: Duration::from_millis(500),
        }
    }

    /// The smallest memory for buffers with which parts of this size can be written: whoever reads from the bucket
    /// to write to it must not wait for itself, so that one part gets no more than half of the memory.
    #[must_use]
    pub const fn least_buffer_bytes(&self) -> u64 {
        PARTS_IN_BUFFERS.saturating_mul(self.part_bytes)
    }

    /// Whether all of it makes sense; no network is involved.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Some(endpoint) = &self.endpoint {
            let uri = endpoint.parse::<http::Uri>().ok();
            let scheme = uri.as_ref().and_then(http::Uri::scheme_str);
            if !matches!(scheme, Some("http" | "https")) {
                return Err(ConfigError::Endpoint);
            }
            if scheme == Some("http") && self.ca_file.is_some() {
                return Err(ConfigError::CaWithoutTls);
            }
        }
        if self.bucket.is_empty() || self.bucket.contains(['/', '?', '#', ' ']) {
            return Err(ConfigError::Bucket);
        }
        if self.access_key.is_some() != self.secret_key.is_some() {
            return Err(ConfigError::HalfAKey);
        }
        if !(MIN_PART_BYTES..=MAX_PART_BYTES).contains(&self.part_bytes) {
            return Err(ConfigError::PartBytes);
        }
        if self.write_concurrency == 0 || self.compose_concurrency == 0 || self.attempts == 0 {
            return Err(ConfigError::Zero);
        }
        Ok(())
    }
}

/// Why a configuration makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The endpoint is no address.
    #[error("the endpoint is an address like https://s3.example.org:9000")]
    Endpoint,
    /// Certificates are named where none is looked at.
    #[error("certificates are for an endpoint that begins with https")]
    CaWithoutTls,
    /// The bucket is no name.
    #[error("the bucket is the plain name of one")]
    Bucket,
    /// Half of the access key is missing.
    #[error("an access key has an id and a secret: give both or none")]
    HalfAKey,
    /// Parts of that size do not work.
    #[error("a part has between 5 MiB and 5 GiB")]
    PartBytes,
    /// A count is zero.
    #[error("concurrency and attempts are at least 1")]
    Zero,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_named() {
        let good = Config::new("pond");
        assert_eq!(good.check(), Ok(()));
        let cases = [
            (Config { endpoint: Some("s3.local".into()), ..good.clone() }, ConfigError::Endpoint),
            (Config { endpoint: Some("ftp://a".into()), ..good.clone() }, ConfigError::Endpoint),
            (
                Config {
                    endpoint: Some("http://s3.local".into()),
                    ca_file: Some("ca.pem".into()),
                    ..good.clone()
                },
                ConfigError::CaWithoutTls,
            ),
            (Config { bucket: "a/b".into(), ..good.clone() }, ConfigError::Bucket),
            (Config { access_key: Some("id".into()), ..good.clone() }, ConfigError::HalfAKey),
            (Config { part_bytes: 1 << 20, ..good.clone() }, ConfigError::PartBytes),
            (Config { attempts: 0, ..good.clone() }, ConfigError::Zero),
        ];
        for (config, expected) in cases {
            assert_eq!(config.check(), Err(expected), "{config:?}");
        }
    }
}
