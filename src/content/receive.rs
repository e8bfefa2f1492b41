//! Taking a client's bytes in: to storage and through the hash at the same time.

use futures_util::{StreamExt, future::try_join};

use super::{BlobHash, ContentStore, Error};
use crate::{
    runtime::{BodyError, BodyStream},
    storage::Writer,
};

/// What came of a body.
#[derive(Debug)]
pub struct Received {
    /// Bytes that were taken in.
    pub size_bytes: u64,
    /// The hash over what it held before and these bytes.
    pub hash: BlobHash,
    /// How the body ended. The bytes before a broken end are as good as any.
    pub end: Result<(), BodyError>,
}

impl ContentStore {
    /// Feeds `body` to `writer` and to `hash` until it ends, cleanly or not, or has more than `limit_bytes`.
    ///
    /// # Errors
    /// A fault of the storage. What the client does wrong is in [`Received::end`].
    ///
    /// # Cancel safety
    /// Dropping the future loses the writer, and with it what was written.
    pub async fn receive(
        &self,
        writer: &mut dyn Writer,
        mut body: BodyStream,
        hash: BlobHash,
        limit_bytes: u64,
    ) -> Result<Received, Error> {
        let mut pipeline = self.hash_pipeline(hash, writer.batch_bytes());
        let mut size_bytes = 0;
        let end = loop {
            let bytes = match body.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => bytes,
            };
            if size_bytes + bytes.len() as u64 > limit_bytes {
                break Err(BodyError::TooLarge { limit_bytes });
            }
            size_bytes += bytes.len() as u64;
            let hashed = async { pipeline.update(bytes.clone()).await.map_err(Error::from) };
            let written = async { writer.write(bytes.clone()).await.map_err(Error::from) };
            try_join(hashed, written).await?;
        };
        let hash = pipeline.finish().await?;
        Ok(Received { size_bytes, hash, end })
    }
}
