//! The work of a fill: bytes from another registry, through the hash, into a spool, into the storage.

use std::sync::Arc;

use futures_util::{
    TryStreamExt,
    future::{BoxFuture, join},
};

use super::{
    ChunkTable, ContentStore, Error, Hashed,
    ahead::{Ahead, Found},
    fill::{Fill, Ongoing, Progress},
    hash::{HASH_BATCH_BYTES, HashPipeline},
    intake::{Intake, WINDOW_BYTES, Written},
    source::{Remote, Source},
};
use crate::{
    oci::Digest,
    storage::{Spool, layout},
};

/// How a fill has ended.
#[derive(Clone, Debug)]
pub enum FillEnd {
    /// The content is in the storage.
    Stored {
        /// Its length in bytes.
        size_bytes: u64,
    },
    /// The content is the right one and was given to whoever read it, but could not be stored.
    NotKept(Arc<Error>),
    /// The content could not be had.
    Failed(Arc<Error>),
}

/// What is to be done when a fill has ended, before anybody else looks for its content in the storage.
pub type AfterFill = Box<dyn FnOnce(FillEnd) -> BoxFuture<'static, ()> + Send>;

impl ContentStore {
    /// Joins the fill of `digest`, or begins one from `remote`; `after` is done only in this case.
    #[must_use]
    pub fn fill(&self, digest: Digest, remote: Remote, after: AfterFill) -> Fill {
        let store = self.clone();
        self.fills.join_or_begin(digest, &remote.clone(), move |ongoing| {
            let tasks = store.fills.tasks.clone();
            let transfer = Transfer { store, remote, ongoing };
            tasks.spawn("fill", transfer.run(after));
        })
    }

    /// The fill of `digest` that is under way, if there is one.
    #[must_use]
    pub fn running_fill(&self, digest: &Digest) -> Option<Fill> {
        self.fills.join(digest)
    }
}

struct Transfer {
    store: ContentStore,
    remote: Remote,
    ongoing: Ongoing,
}

impl Transfer {
    async fn run(self, after: AfterFill) {
        let end = self.work().await;
        after(end.clone()).await;
        // Last, so that whoever hears of it finds everything as it is now.
        if let FillEnd::Failed(error) = end {
            self.ongoing.fail(error);
        }
    }

    async fn work(&self) -> FillEnd {
        let digest = self.ongoing.digest;
        match self.fetch().await {
            Ok((spool, size_bytes, table)) => {
                // Before others hear that all of it is right: they ask for it then.
                self.store.know_table(&digest, table.as_ref()).await;
                self.ongoing.publish(Progress::Verified { spool: spool.clone(), size_bytes });
                match self.keep(&spool, size_bytes, table).await {
                    Ok(()) => FillEnd::Stored { size_bytes },
                    Err(error) => {
                        tracing::error!(%digest, %error, "fetched content could not be kept");
                        FillEnd::NotKept(Arc::new(error))
                    }
                }
            }
            Err(error) => {
                let (upstream, error) = (self.remote.upstream.name(), Arc::new(error));
                tracing::warn!(upstream, %digest, %error, "content could not be fetched");
                FillEnd::Failed(error)
            }
        }
    }

    async fn keep(
        &self,
        spool: &Spool,
        size_bytes: u64,
        table: Option<ChunkTable>,
    ) -> Result<(), Error> {
        let digest = self.ongoing.digest;
        let key = layout::blob(&digest);
        let adopted = self.store.storage.adopt(spool, &key);
        let (adopted, ()) = join(adopted, self.store.keep_table(&digest, table)).await;
        adopted?;
        self.store.sizes.insert(digest, size_bytes).await;
        Ok(())
    }

    async fn fetch(&self) -> Result<(Spool, u64, Option<ChunkTable>), Error> {
        let digest = self.ongoing.digest;
        let source = Source::open(self.remote.clone(), digest);
        let (source, spool) = tokio::join!(source, self.store.storage.spool());
        let (source, spool) = (source?, spool?);
        let _paid = spool.reserve(WINDOW_BYTES).await;
        // Without a length nobody can be answered before the end.
        if let Some(size_bytes) = source.size_bytes() {
            let running = Progress::Running { spool: spool.clone(), size_bytes, written_bytes: 0 };
            self.ongoing.publish(running);
        }
        let written = self.ongoing.written();
        let hash = self.store.begin_hash(digest.algorithm());
        let hash = self.store.hash_pipeline(hash, HASH_BATCH_BYTES);
        let front = Front {
            ahead: Ahead::of(&source, &spool, &self.store.fills.tasks),
            intake: Intake::new(spool.clone(), 0, Arc::clone(&written)),
            spool: spool.clone(),
            written,
            hash,
        };
        let (Hashed { digest: actual, table }, size_bytes) = front.run(source).await?;
        if actual != digest {
            return Err(Error::Mismatch { expected: digest, actual });
        }
        Ok((spool, size_bytes, table))
    }
}

/// How far a blob has come without a gap: what is hashed, and what readers may read.
struct Front {
    spool: Spool,
    intake: Intake,
    written: Written,
    hash: HashPipeline,
    ahead: Option<Ahead>,
}

impl Front {
    /// Takes in all bytes. Returns what they hash to, and how many they are.
    async fn run(mut self, source: Source) -> Result<(Hashed, u64), Error> {
        self.take_in(source).await?;
        while let Some(found) = self.take_over().await? {
            self.pass(found.held_bytes).await?;
            self.take_in(found.source).await?;
        }
        let hashed = self.hash.finish().await?.finish();
        Ok((hashed, self.intake.end()))
    }

    /// Takes in what `source` gives until it ends.
    async fn take_in(&mut self, source: Source) -> Result<(), Error> {
        let mut source = Box::pin(source.stream());
        if let Some(ahead) = &mut self.ahead {
            ahead.begin_window(self.intake.end());
        }
        loop {
            tokio::select! {
                written = self.intake.written(), if self.intake.is_writing() => written?,
                () = window_ended(self.ahead.as_ref()) => {
                    self.ahead.iter_mut().for_each(|ahead| ahead.think(self.intake.end()));
                }
                next = source.try_next(), if !self.intake.is_full() => {
                    let Some(bytes) = next? else { break };
                    self.hash.update(bytes.clone()).await?;
                    self.intake.push(bytes);
                }
            }
        }
        self.intake.drained().await
    }

    async fn take_over(&mut self) -> Result<Option<Found>, Error> {
        match &mut self.ahead {
            Some(ahead) => ahead.take_over().await,
            None => Ok(None),
        }
    }

    /// Goes on over bytes that are in the spool already.
    async fn pass(&mut self, held_bytes: u64) -> Result<(), Error> {
        let window = self.spool.window(held_bytes).await?;
        let mut offset = self.intake.end();
        let end = offset + held_bytes;
        while offset < end {
            let bytes = window.read(offset, end - offset).await?;
            offset += bytes.len() as u64;
            (self.written)(bytes.len() as u64);
            self.hash.update(bytes).await?;
        }
        self.intake = Intake::new(self.spool.clone(), end, Arc::clone(&self.written));
        Ok(())
    }
}

/// Never comes if nothing is to come ahead.
async fn window_ended(ahead: Option<&Ahead>) {
    match ahead {
        Some(ahead) => ahead.window_ended().await,
        None => std::future::pending().await,
    }
}
