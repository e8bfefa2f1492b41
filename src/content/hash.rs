//! Hashing beside the transfer: off the async threads, and never more than a batch behind.

use std::{num::NonZero, thread};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::BlobHash;
use crate::runtime::{Abandoned, Pieces};

/// Up to this length a hash is finished where it is needed: the hand-over would cost more. A tenth of a
/// millisecond where the processor has no instructions for it.
const HASHED_HERE_BYTES: usize = 32 << 10;

/// Batches that may wait for a thread. Every pipeline has at most one here, and there are fewer connections, so
/// nobody ever waits to get in.
const QUEUE_BATCHES: usize = 1 << 16;

/// Bytes that are hashed at once where nothing else says how many: they should still be in the processor's cache when
/// somebody else needs them.
pub(super) const HASH_BATCH_BYTES: usize = 256 << 10;

/// Threads that hash: one for each processor, so that hashing never stands in the queue of those who wait for
/// a disk. While there is work they go from batch to batch without sleeping in between, which is what tokio's
/// blocking pool does not do. They end when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct HashThreads {
    jobs: Sender<Box<Job>>,
}

/// A batch, the hash it goes into, and who waits for it.
struct Job {
    hash: BlobHash,
    batch: Pieces,
    done: oneshot::Sender<BlobHash>,
}

impl HashThreads {
    /// Starts the threads.
    pub(super) fn start() -> Self {
        let (jobs, queue) = crossbeam_channel::bounded(QUEUE_BATCHES);
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let started = (0..count).filter(|_| start_one(queue.clone())).count();
        if started == 0 {
            // Then the queue has no reader, and every hash ends as `Abandoned`.
            tracing::error!("no thread can be started to hash with");
        }
        Self { jobs }
    }

    /// Gives `batch` to the next free thread.
    fn submit(&self, hash: BlobHash, batch: Pieces) -> oneshot::Receiver<BlobHash> {
        let (done, result) = oneshot::channel();
        // Without a thread the job is dropped, and whoever waits for it is told.
        let _abandoned = self.jobs.send(Box::new(Job { hash, batch, done }));
        result
    }
}

fn start_one(queue: Receiver<Box<Job>>) -> bool {
    let thread = thread::Builder::new().name("hash".into());
    thread.spawn(move || queue.iter().for_each(|job| job.run())).is_ok()
}

impl Job {
    fn run(self) {
        let Self { mut hash, batch, done } = self;
        batch.iter().for_each(|piece| hash.update(piece));
        // The bytes are given back before their owner goes on.
        drop(batch);
        let _nobody_waits = done.send(hash);
    }
}

/// A running hash that works on one batch while the next one gathers. It holds at most two batches.
#[derive(Debug)]
pub(super) struct HashPipeline {
    threads: HashThreads,
    state: State,
    batch: Pieces,
    batch_bytes: usize,
}

#[derive(Debug)]
enum State {
    Idle(BlobHash),
    Busy(oneshot::Receiver<BlobHash>),
    /// A hash thread died.
    Lost,
}

impl HashPipeline {
    /// A pipeline that hands over `batch_bytes` at once.
    pub(super) fn new(threads: HashThreads, hash: BlobHash, batch_bytes: usize) -> Self {
        Self { threads, state: State::Idle(hash), batch: Pieces::default(), batch_bytes }
    }

    /// Takes in the next bytes. Waits while hashing is slower than its caller.
    ///
    /// # Cancel safety
    /// The bytes are taken in as soon as the future is polled; dropping it loses none of them.
    pub(super) async fn update(&mut self, bytes: Bytes) -> Result<(), Abandoned> {
        self.batch.push(bytes);
        if self.batch.len() < self.batch_bytes {
            return Ok(());
        }
        let hash = self.idle().await?;
        let batch = std::mem::take(&mut self.batch);
        self.state = State::Busy(self.threads.submit(hash, batch));
        Ok(())
    }

    /// The hash over everything taken in.
    pub(super) async fn finish(mut self) -> Result<BlobHash, Abandoned> {
        let mut hash = self.idle().await?;
        let rest = std::mem::take(&mut self.batch);
        if rest.len() > HASHED_HERE_BYTES {
            return self.threads.submit(hash, rest).await.map_err(|_panicked| Abandoned);
        }
        rest.iter().for_each(|piece| hash.update(piece));
        Ok(hash)
    }

    async fn idle(&mut self) -> Result<BlobHash, Abandoned> {
        if let State::Busy(hashing) = &mut self.state {
            self.state = hashing.await.map_or(State::Lost, State::Idle);
        }
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Idle(hash) => Ok(hash),
            State::Busy(_) | State::Lost => Err(Abandoned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    #[tokio::test]
    async fn batches_hash_to_the_digest_of_the_whole() {
        let threads = HashThreads::start();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        for piece_bytes in [1_000, 70_000, 400_000, 1_000_000] {
            let mut pipeline =
                HashPipeline::new(threads.clone(), BlobHash::new(Algorithm::Sha256), 128 << 10);
            for piece in bytes.chunks(piece_bytes) {
                pipeline.update(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            let digest = pipeline.finish().await.unwrap().finish().digest;
            assert_eq!(digest, Digest::of(Algorithm::Sha256, &bytes), "pieces of {piece_bytes}");
        }
    }
}
