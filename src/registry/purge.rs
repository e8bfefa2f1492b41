//! Removes uploads that nobody will finish.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Error, Registry};
use crate::{
    oci::UploadId,
    runtime::Shutdown,
    storage::{Entry, Key, ListQuery, Purge, layout},
};

/// The first purge comes at a random moment within this time.
const FIRST_WITHIN: Duration = Duration::from_hours(1);

/// Purges at the configured interval until `shutdown`.
pub async fn run(registry: Arc<Registry>, shutdown: Shutdown) {
    let interval = registry.config.uploads.interval;
    let mut wait = interval.min(FIRST_WITHIN).mul_f64(fastrand::f64());
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(wait) => {}
        }
        match registry.purge_uploads(SystemTime::now()).await {
            Ok(0) => {}
            Ok(found) => {
                let dry_run = registry.config.uploads.dry_run;
                tracing::info!(found, dry_run, "purged unfinished uploads");
            }
            Err(error) => {
                tracing::warn!(%error, "purging unfinished uploads failed; the next run tries again")
            }
        }
        wait = interval;
    }
}

impl Registry {
    /// Removes the uploads that began longer than the configured age before `now`, with whatever they left
    /// behind in the storage. Returns how many there were; in a dry run they stay.
    ///
    /// # Errors
    /// A fault of the storage; some may have been removed.
    pub async fn purge_uploads(&self, now: SystemTime) -> Result<u64, Error> {
        let before = now.checked_sub(self.config.uploads.age).unwrap_or(UNIX_EPOCH);
        let purge = if self.config.uploads.dry_run { Purge::DryRun } else { Purge::Remove };
        let mut found = self.storage.purge_unfinished(before, purge).await?;
        let mut query = ListQuery::children(1000);
        loop {
            let page = self.storage.list(&layout::uploads(), query.clone()).await?;
            for id in page.entries.iter().filter_map(|entry| expired(entry, before)) {
                found += 1;
                if purge == Purge::Remove {
                    self.remove_upload(&layout::upload(&id)).await?;
                }
            }
            match page.entries.last() {
                Some(last) if page.more => query = query.after(last.sort_key()),
                _ => return Ok(found),
            }
        }
    }

    async fn remove_upload(&self, folder: &Key) -> Result<(), Error> {
        // Removed objects do not come back in the next page, so each one is the first.
        loop {
            let page = self.storage.list(folder, ListQuery::all(1000)).await?;
            let keys: Vec<Key> =
                page.entries.iter().map(|entry| folder.join(entry.name())).collect();
            self.storage.delete(&keys).await?;
            if !page.more {
                return Ok(());
            }
        }
    }
}

/// The upload in a folder of uploads, if it began before `before`. Foreign names are left alone.
fn expired(entry: &Entry, before: SystemTime) -> Option<UploadId> {
    let id: UploadId = entry.name().parse().ok()?;
    (UNIX_EPOCH + id.started() < before).then_some(id)
}
