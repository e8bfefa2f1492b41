//! Pulling one piece of content: verified, and resumed where it broke.

use bytes::Bytes;

use super::{
    daemon::{Daemon, Want},
    error::Error,
    progress::Progress,
    repository::{Place, Repository},
    retry::Retries,
};
use crate::oci::{Digest, Hasher, Reference};

/// Most bytes of a manifest or a configuration: what the daemon can be made to accept.
const DOCUMENT_MAX_BYTES: usize = 64 << 20;

/// A blob that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    /// Its digest.
    pub(super) digest: Digest,
    /// Its length, if the manifest says it.
    pub(super) size_bytes: Option<u64>,
}

/// The bytes of a manifest.
///
/// # Errors
/// [`Error`], after retries.
pub(super) async fn manifest(
    daemon: &Daemon,
    repository: &Repository,
    reference: &Reference,
) -> Result<Bytes, Error> {
    let place = repository.manifest(reference);
    let expected = match reference {
        Reference::Tag(_) => None,
        Reference::Digest(digest) => Some(*digest),
    };
    document(daemon, &place, Want::Manifest, expected).await
}

/// The bytes of a blob that is to be read, such as an image's configuration.
///
/// # Errors
/// [`Error`], after retries.
pub(super) async fn configuration(
    daemon: &Daemon,
    repository: &Repository,
    digest: Digest,
) -> Result<Bytes, Error> {
    document(daemon, &repository.blob(digest), Want::BlobFrom(0), Some(digest)).await
}

/// Asks whether a blob is there, without its bytes.
///
/// # Errors
/// [`Error`], after retries.
pub(super) async fn presence(
    daemon: &Daemon,
    repository: &Repository,
    digest: Digest,
) -> Result<(), Error> {
    let place = repository.blob(digest);
    let mut retries = Retries::default();
    loop {
        match daemon.ask(&place, Want::BlobHead).await {
            Ok(_there) => return Ok(()),
            Err(error) => retries.pause(error).await?,
        }
    }
}

/// Pulls a blob, hashes its bytes and throws them away. Hashes on the calling task, which therefore is one of
/// its own: nothing but other downloads shares these threads.
///
/// # Errors
/// [`Error`], after retries.
pub(super) async fn blob(
    daemon: &Daemon,
    repository: &Repository,
    blob: Blob,
    progress: &Progress,
) -> Result<(), Error> {
    let place = repository.blob(blob.digest);
    let mut received = Received::new(blob, progress);
    let mut retries = Retries::default();
    loop {
        match attempt(daemon, &place, &mut received).await {
            Ok(()) => return received.verify(),
            // It broke after its last byte: there is nothing left to ask for.
            Err(error) if error.is_retryable() && received.is_whole() => return received.verify(),
            Err(error) => retries.pause(error).await?,
        }
    }
}

/// Reads on from where `received` stands, to the end of the body.
async fn attempt(
    daemon: &Daemon,
    place: &Place<'_>,
    received: &mut Received<'_>,
) -> Result<(), Error> {
    let mut answer = daemon.ask(place, Want::BlobFrom(received.bytes)).await?;
    if answer.start != received.bytes {
        // A server may ignore `Range` (RFC 9110, section 14.2).
        received.restart();
    }
    while let Some(chunk) = answer.next().await? {
        received.take(&chunk)?;
    }
    Ok(())
}

async fn document(
    daemon: &Daemon,
    place: &Place<'_>,
    want: Want,
    expected: Option<Digest>,
) -> Result<Bytes, Error> {
    let mut retries = Retries::default();
    loop {
        match read_document(daemon, place, want, expected).await {
            Ok(body) => return Ok(body),
            Err(error) => retries.pause(error).await?,
        }
    }
}

async fn read_document(
    daemon: &Daemon,
    place: &Place<'_>,
    want: Want,
    expected: Option<Digest>,
) -> Result<Bytes, Error> {
    let answer = daemon.ask(place, want).await?;
    let announced = answer.announced_digest().and_then(|text| text.parse().ok());
    let body = answer.read(DOCUMENT_MAX_BYTES).await?;
    // What was asked for counts; of a tag only the daemon knows which manifest it means.
    if let Some(expected) = expected.or(announced) {
        let actual = Digest::of(expected.algorithm(), &body);
        if actual != expected {
            return Err(Error::Corrupt { actual });
        }
    }
    Ok(body)
}

/// What of a blob has come.
struct Received<'a> {
    blob: Blob,
    progress: &'a Progress,
    hasher: Hasher,
    bytes: u64,
}

impl<'a> Received<'a> {
    fn new(blob: Blob, progress: &'a Progress) -> Self {
        Self { blob, progress, hasher: Hasher::new(blob.digest.algorithm()), bytes: 0 }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        self.progress.received(chunk.len() as u64);
        match self.blob.size_bytes {
            Some(expected) if self.bytes > expected => Err(Error::Long { expected }),
            Some(_) | None => Ok(()),
        }
    }

    fn restart(&mut self) {
        self.progress.lost(self.bytes);
        self.bytes = 0;
        self.hasher = Hasher::new(self.blob.digest.algorithm());
    }

    fn is_whole(&self) -> bool {
        self.blob.size_bytes == Some(self.bytes)
    }

    fn verify(self) -> Result<(), Error> {
        if let Some(expected) = self.blob.size_bytes
            && self.bytes < expected
        {
            return Err(Error::Short { expected, actual: self.bytes });
        }
        let actual = self.hasher.finish();
        if actual == self.blob.digest { Ok(()) } else { Err(Error::Corrupt { actual }) }
    }
}
