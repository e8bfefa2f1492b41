//! Hashing beside the transfer: off the async threads, and never more than a batch behind.

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::{
    oci::Hasher,
    runtime::{Abandoned, Pieces},
};

/// Bytes gathered before a hash thread takes them. Hashing them takes about half a millisecond, far more
/// than the hand-over.
const BATCH_BYTES: usize = 128 << 10;

/// A running hash that works on one batch while the next one gathers. It holds at most two batches.
#[derive(Debug)]
pub(super) struct HashPipeline {
    state: State,
    batch: Pieces,
}

#[derive(Debug)]
enum State {
    Idle(Hasher),
    Busy(JoinHandle<Hasher>),
    /// A hash thread died.
    Lost,
}

impl HashPipeline {
    pub(super) fn new(hasher: Hasher) -> Self {
        Self { state: State::Idle(hasher), batch: Pieces::default() }
    }

    /// Takes in the next bytes. Waits while hashing is slower than its caller.
    pub(super) async fn update(&mut self, bytes: Bytes) -> Result<(), Abandoned> {
        self.batch.push(bytes);
        if self.batch.len() < BATCH_BYTES {
            return Ok(());
        }
        let mut hasher = self.idle().await?;
        let batch = std::mem::take(&mut self.batch);
        self.state = State::Busy(tokio::task::spawn_blocking(move || {
            batch.iter().for_each(|piece| hasher.update(piece));
            hasher
        }));
        Ok(())
    }

    /// The hash over everything taken in.
    pub(super) async fn finish(mut self) -> Result<Hasher, Abandoned> {
        let mut hasher = self.idle().await?;
        let rest = std::mem::take(&mut self.batch);
        // Less than a batch: cheaper here than on another thread.
        rest.iter().for_each(|piece| hasher.update(piece));
        Ok(hasher)
    }

    async fn idle(&mut self) -> Result<Hasher, Abandoned> {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Idle(hasher) => Ok(hasher),
            State::Busy(hashing) => hashing.await.map_err(|_panicked| Abandoned),
            State::Lost => Err(Abandoned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    #[tokio::test]
    async fn batches_hash_to_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        for piece_bytes in [1_000, 70_000, 400_000, 1_000_000] {
            let mut pipeline = HashPipeline::new(Hasher::new(Algorithm::Sha256));
            for piece in bytes.chunks(piece_bytes) {
                pipeline.update(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            let digest = pipeline.finish().await.unwrap().finish();
            assert_eq!(digest, Digest::of(Algorithm::Sha256, &bytes), "pieces of {piece_bytes}");
        }
    }
}
