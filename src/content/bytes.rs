//! Bytes of content that was opened.

use super::ChunkBytes;
use crate::storage::{self, ObjectBytes, ObjectStream};

/// The bytes of content that was opened, before any of them is asked for.
#[derive(Debug)]
pub enum ContentBytes {
    /// They come from the storage or from another registry, or lie in a file.
    Object(ObjectBytes),
    /// They lie in chunks in memory, or come there.
    Chunks(Box<ChunkBytes>),
}

impl ContentBytes {
    /// Has the bytes come to buffers of this process.
    ///
    /// # Errors
    /// [`storage::Fault::Busy`] if there is no memory for them for 10 seconds.
    pub async fn into_stream(self) -> Result<ObjectStream, storage::Error> {
        match self {
            Self::Object(bytes) => bytes.into_stream().await,
            Self::Chunks(bytes) => bytes.into_stream().await,
        }
    }
}

impl From<ObjectStream> for ContentBytes {
    fn from(stream: ObjectStream) -> Self {
        Self::Object(ObjectBytes::Stream(stream))
    }
}
