//! The bucket: where its keys are and how long it may take to answer.

use std::{fmt, io, sync::atomic::AtomicBool, time::Duration};

use aws_sdk_s3::{
    Client,
    config::Builder,
    primitives::DateTime,
    types::{ServerSideEncryption, StorageClass},
};
use bytes::Bytes;

use super::{
    body,
    bookmark::Bookmarks,
    client::{self, CaError},
    config::{Config, Encryption, PARTS_IN_BUFFERS},
    fault::failed,
};
use crate::{
    runtime::{Buffers, ByteBudget, Permit, Pieces, Tasks},
    storage::{Error, Fault, Key, ObjectMeta, Spool, spool::SpoolFile},
};

/// Rate at which even a slow line sends a body.
const SLOWEST_BYTES_PER_SECOND: u64 = 256 << 10;

/// How much longer than others those requests may take that make S3 move bytes on its own side.
const SERVER_SIDE_FACTOR: u32 = 10;

/// Quarters of the budget that writing may take. One upload holds a hundred times what a download does; without a
/// limit, a hundred uploads had some of a hundred downloads wait until they were refused.
const WRITE_QUARTERS: u64 = 3;

/// A bucket and what it takes to talk to it.
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) config: Config,
    pub(super) budget: ByteBudget,
    /// What writing may take of it.
    write_budget: ByteBudget,
    /// What goes on after a writer was dropped.
    pub(super) tasks: Tasks,
    /// Set when the server was found not to know batch deletes.
    pub(super) deletes_one_by_one: AtomicBool,
    pub(super) bookmarks: Bookmarks,
    buffers: Buffers,
}

impl Bucket {
    pub(super) async fn connect(config: Config, budget: ByteBudget) -> Result<Self, CaError> {
        let client = client::connect(&config).await?;
        let (tasks, deletes_one_by_one, bookmarks) = Default::default();
        let buffers = Buffers::new();
        let write_budget = budget.part(budget.total_bytes() / 4 * WRITE_QUARTERS);
        Ok(Self {
            client,
            config,
            budget,
            write_budget,
            tasks,
            deletes_one_by_one,
            bookmarks,
            buffers,
        })
    }

    /// The bucket's name.
    pub(super) fn name(&self) -> &str {
        &self.config.bucket
    }

    /// The path of `key` in the bucket.
    pub(super) fn path(&self, key: &Key) -> String {
        match &self.config.prefix {
            Some(prefix) => format!("{prefix}/{key}"),
            None => key.as_str().to_owned(),
        }
    }

    /// Memory for a buffer of `bytes`, at most half of the budget: whoever reads from a storage to
    /// write to it holds some of the budget already, and must not wait for itself.
    pub(super) async fn reserve(&self, bytes: u64) -> Permit {
        let most = self.budget.total_bytes() / PARTS_IN_BUFFERS;
        self.write_budget.acquire(bytes.min(most)).await
    }

    /// A spool on this machine's disk.
    pub(super) async fn spool(&self) -> Result<Spool, Error> {
        let folder = self.config.spool.clone();
        let made = tokio::task::spawn_blocking(move || SpoolFile::create_nameless(&folder)).await;
        let file = made.map_err(io::Error::other).flatten().map_err(|error| {
            let key = "s3".parse().expect("a plain word is a key");
            let path = self.config.spool.display();
            let named = io::Error::new(error.kind(), format!("{path}: {error}"));
            Error::failed("spool", &key, Fault::Other, named)
        })?;
        Ok(Spool::new(file, self.budget.clone(), self.buffers.clone()))
    }

    /// Settings of a request that sends `bytes`.
    pub(super) fn sending(&self, bytes: u64) -> Builder {
        let sending = Duration::from_secs(bytes.div_ceil(SLOWEST_BYTES_PER_SECOND));
        self.within(self.config.request_timeout + sending)
    }

    /// Settings of a request that keeps S3 itself busy.
    pub(super) fn server_side(&self) -> Builder {
        self.within(self.config.request_timeout * SERVER_SIDE_FACTOR)
    }

    fn within(&self, silence: Duration) -> Builder {
        Builder::new().timeout_config(client::timeouts(&self.config, silence))
    }

    pub(super) fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.config.server_side_encryption {
            None => (None, None),
            Some(Encryption::Aes256) => (Some(ServerSideEncryption::Aes256), None),
            Some(Encryption::Kms { key_id }) => {
                (Some(ServerSideEncryption::AwsKms), key_id.clone())
            }
        }
    }

    pub(super) fn storage_class(&self) -> Option<StorageClass> {
        self.config.storage_class.as_deref().map(StorageClass::from)
    }

    /// Stores an object with one request.
    pub(super) async fn put(
        &self,
        operation: &'static str,
        key: &Key,
        pieces: Pieces,
    ) -> Result<(), Error> {
        let size_bytes = pieces.len() as u64;
        let (encryption, kms_key) = self.encryption();
        self.client
            .put_object()
            .bucket(self.name())
            .key(self.path(key))
            .content_length(signed(size_bytes))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .set_storage_class(self.storage_class())
            .body(body::of(pieces))
            .customize()
            // The SDK would hash all of it; the registry has, and checks what it reads.
            .disable_payload_signing()
            .config_override(self.sending(size_bytes))
            .send()
            .await
            .map_err(|error| failed(operation, key, &error))?;
        Ok(())
    }

    /// Size and age of an object.
    pub(super) async fn head(&self, operation: &'static str, key: &Key) -> Result<Head, Error> {
        let request = self.client.head_object().bucket(self.name()).key(self.path(key));
        let answer = request.send().await.map_err(|error| failed(operation, key, &error))?;
        let meta = meta(answer.content_length, answer.last_modified);
        let meta = meta.ok_or_else(|| nonsense(operation, key, "no size or no date"))?;
        Ok(Head { meta, tag: answer.e_tag.unwrap_or_default() })
    }
}

/// Where it is. Nothing secret.
impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {}", self.config.bucket)?;
        if let Some(prefix) = &self.config.prefix {
            write!(f, "/{prefix}")?;
        }
        match (&self.config.endpoint, &self.config.region) {
            (Some(endpoint), _) => write!(f, " at {endpoint}"),
            (None, Some(region)) => write!(f, " in {region}"),
            (None, None) => Ok(()),
        }
    }
}

/// What is known of an object.
pub(super) struct Head {
    pub(super) meta: ObjectMeta,
    /// Its entity tag.
    pub(super) tag: String,
}

/// Size and age, where the server says both. A missing date is not made up: the collector spares young
/// objects.
pub(super) fn meta(size: Option<i64>, modified: Option<DateTime>) -> Option<ObjectMeta> {
    let size_bytes = size?.try_into().ok()?;
    Some(ObjectMeta { size_bytes, modified: modified?.try_into().ok()? })
}

/// The error for an answer that S3 should not have given.
pub(super) fn nonsense(operation: &'static str, key: &Key, what: &'static str) -> Error {
    Error::failed(operation, key, Fault::Corrupt, Nonsense(what))
}

#[derive(Debug, thiserror::Error)]
#[error("the answer of S3 makes no sense: {0}")]
struct Nonsense(&'static str);

/// A length in the type of the SDK. Objects end at 5 TiB.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A single buffer as pieces.
pub(super) fn pieces(bytes: Bytes) -> Pieces {
    let mut pieces = Pieces::default();
    pieces.push(bytes);
    pieces
}
