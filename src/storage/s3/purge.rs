//! Ending uploads that nobody will.

use std::{collections::HashSet, time::SystemTime};

use aws_sdk_s3::{
    operation::list_multipart_uploads::ListMultipartUploadsOutput, primitives::DateTime,
};

use super::{
    bucket::Bucket,
    fault::{Failure, failed},
    journal::{self, Entry},
    list, multipart, read,
};
use crate::storage::{self, Error, Key, ListQuery, ObjectMeta, Purge};

/// The trees of ours in which a server is asked for uploads.
const TREES: [&str; 2] = ["docker/registry/v2", "millpond/v1"];

/// Pages of uploads that one purge looks at, of 1000 each. The rest is for the next.
const MAX_PAGES: usize = 100;

const OPERATION: &str = "purge";

/// Aborts uploads that began before `before`, and counts them.
pub(super) async fn purge(bucket: &Bucket, before: SystemTime, purge: Purge) -> Result<u64, Error> {
    let mut sweep = Sweep { bucket, before, purge, seen: HashSet::new(), found: 0 };
    sweep.journal().await?;
    for tree in TREES {
        sweep.server(&tree.parse().expect("constant components make a key")).await?;
    }
    Ok(sweep.found)
}

struct Sweep<'a> {
    bucket: &'a Bucket,
    before: SystemTime,
    purge: Purge,
    /// Uploads that the journal had.
    seen: HashSet<String>,
    found: u64,
}

impl Sweep<'_> {
    /// Ends what the journal knows.
    async fn journal(&mut self) -> Result<(), Error> {
        let mut query = ListQuery::children(1000);
        loop {
            let page = list::list(self.bucket, OPERATION, &journal::folder(), &query).await?;
            for entry in &page.entries {
                let storage::Entry::Object { name, meta } = entry else { continue };
                // Names sort by time.
                match journal::began(name) {
                    Some(began) if began >= self.before => return Ok(()),
                    Some(_) => self.end(&journal::folder().join(name), *meta).await?,
                    None => {}
                }
            }
            let Some(last) = page.entries.last().filter(|_| page.more) else { return Ok(()) };
            query = query.after(last.sort_key());
        }
    }

    async fn end(&mut self, note: &Key, meta: ObjectMeta) -> Result<(), Error> {
        let entry = match self.read(note, meta).await {
            Ok(entry) => entry,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.found += 1;
        if let Some(entry) = &entry {
            self.seen.insert(entry.upload_id.clone());
        }
        if self.purge == Purge::DryRun {
            return Ok(());
        }
        let aborted = match entry.and_then(|entry| Some((entry.key.parse().ok()?, entry.upload_id)))
        {
            Some((key, upload_id)) => {
                multipart::abort(self.bucket, &self.bucket.path(&key), &upload_id).await.is_ok()
            }
            // Not a note of ours.
            None => true,
        };
        if aborted {
            journal::forget(self.bucket, note).await;
        }
        Ok(())
    }

    async fn read(&self, note: &Key, meta: ObjectMeta) -> Result<Option<Entry>, Error> {
        /// A note is a key of less than 1 KiB and an id.
        const MAX_NOTE_BYTES: u64 = 16 << 10;
        if !(1..=MAX_NOTE_BYTES).contains(&meta.size_bytes) {
            return Ok(None);
        }
        let text = read::read(self.bucket, OPERATION, note, 0..meta.size_bytes).await?.concat();
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Ends what the server lists itself, where it does.
    async fn server(&mut self, tree: &Key) -> Result<(), Error> {
        let mut marker = (None, None);
        for _page in 0..MAX_PAGES {
            let Some(page) = self.page(tree, &marker).await? else { return Ok(()) };
            for upload in page.uploads.unwrap_or_default() {
                let (Some(path), Some(id)) = (upload.key, upload.upload_id) else { continue };
                if self.is_due(upload.initiated, &id) {
                    self.found += 1;
                    if self.purge == Purge::Remove {
                        // A failure is in the log, and the upload in the next listing.
                        let _failure = multipart::abort(self.bucket, &path, &id).await;
                    }
                }
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || next == marker {
                return Ok(());
            }
            marker = next;
        }
        Ok(())
    }

    async fn page(
        &self,
        tree: &Key,
        (key, upload_id): &(Option<String>, Option<String>),
    ) -> Result<Option<ListMultipartUploadsOutput>, Error> {
        let request = self
            .bucket
            .client
            .list_multipart_uploads()
            .bucket(self.bucket.name())
            .prefix(format!("{}/", self.bucket.path(tree)))
            .set_key_marker(key.clone())
            .set_upload_id_marker(upload_id.clone());
        match request.send().await {
            Ok(page) => Ok(Some(page)),
            // Many servers do not know the request, and many policies do not grant it.
            Err(error) if matches!(Failure::of(&error).status(), Some(400..=499 | 501)) => {
                tracing::debug!(error = %Failure::of(&error), "the server lists no uploads");
                Ok(None)
            }
            Err(error) => Err(failed(OPERATION, tree, &error)),
        }
    }

    fn is_due(&self, initiated: Option<DateTime>, upload_id: &str) -> bool {
        let began = initiated.and_then(|time| SystemTime::try_from(time).ok());
        began.is_some_and(|began| began < self.before) && !self.seen.contains(upload_id)
    }
}
