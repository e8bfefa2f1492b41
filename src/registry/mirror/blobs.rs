//! Blobs of mirrored repositories.

use std::sync::Arc;

use futures_util::FutureExt;

use super::{
    Mirrored,
    metrics::{Kind, Outcome},
    words::{Said, Wish},
};
use crate::{
    content::{self, Content, Fill, FillEnd, Filler, Found},
    oci::{ByteRange, Digest},
    registry::{Error, links::LinkKind},
};

impl Mirrored {
    /// Length of a blob in bytes. Moves none of them.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`]; [`Error::Upstream`] and others that say why it cannot be told.
    pub async fn stat_blob(&self, digest: &Digest) -> Result<u64, Error> {
        match self.local.stat_blob(digest).await {
            Err(Error::BlobUnknown { .. }) => {}
            other => return other,
        }
        match self.ask_for_blob(digest).await? {
            Some(size_bytes) => Ok(size_bytes),
            // It does not say how long its blobs are, so there is no other way to find out.
            None => Ok(self.fill(digest).open(None).await?.size_bytes),
        }
    }

    /// Opens a blob, whole or at a range: held, or as it comes from the other registry.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`]; [`Error::RangeOutside`]; [`Error::Upstream`] and others that say why it cannot
    /// be had.
    pub async fn open_blob(
        &self,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Content, Error> {
        let metrics = &self.mirrors().metrics;
        match self.local.open_blob(digest, range).await {
            Err(Error::BlobUnknown { .. }) => {}
            other => {
                metrics.count(
                    &self.upstream,
                    Kind::Blob,
                    Outcome::of_result(&other, Outcome::Served),
                );
                return other;
            }
        }
        let opened = self.open_elsewhere(digest, range).await;
        metrics.count(&self.upstream, Kind::Blob, Outcome::of_result(&opened, Outcome::Fetched));
        opened
    }

    async fn open_elsewhere(
        &self,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Content, Error> {
        if self.is_denied(digest).await {
            return Err(Error::BlobUnknown { digest: *digest });
        }
        let content = &self.registry.content;
        if content.running_fill(digest).is_none() {
            if let Some(opened) = self.open_from_others(digest, range).await? {
                return Ok(opened);
            }
            match content.stat(digest).await {
                Ok(_size_bytes) => return self.adopt_blob(digest, range).await,
                Err(content::Error::Unknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Another one may have asked while this one looked at what is held.
        if self.is_denied(digest).await {
            return Err(Error::BlobUnknown { digest: *digest });
        }
        let fill = self.fill(digest);
        if fill.remote().is(&self.origin()) {
            return self.open_fill(fill, range).await;
        }
        // The bytes are on their way for another repository; this one must have them too.
        self.ask_for_blob(digest).await?;
        match fill.clone().open(range).await {
            // What keeps them from the other repository need not keep them from this one.
            Err(content::Error::Fill(_)) => self.open_fill(self.fill(digest), range).await,
            other => {
                self.link_when_kept(fill, *digest);
                Ok(other?)
            }
        }
    }

    /// Opens a blob that another node fetches; nothing if this one is to fetch it.
    async fn open_from_others(
        &self,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Option<Content>, Error> {
        let content = &self.registry.content;
        match self.found_elsewhere(digest).await? {
            None => return Ok(None),
            Some(Found::Held) => return self.local.open_blob(digest, range).await.map(Some),
            Some(Found::Coming(from)) => content.expect(*digest, self.named_origin(), from).await,
        }
        Ok(Some(content.open(digest, range).await?))
    }

    /// Has the blob's owner fetch it, and says where it is then; nothing if this node is to fetch it.
    async fn found_elsewhere(&self, digest: &Digest) -> Result<Option<Found>, Error> {
        let told = self.ask_others(Wish::Fill(*digest)).await?;
        Ok(told.and_then(|(by, answer)| match answer.said {
            Said::Coming { size_bytes, fill } => {
                Some(Found::Coming(Filler { node: by, fill, blob_bytes: size_bytes }))
            }
            Said::Held => Some(Found::Held),
            _ => None,
        }))
    }

    /// Who fetches a blob, for whoever reads it already.
    pub(in crate::registry) async fn find_filler(
        &self,
        digest: &Digest,
    ) -> Result<Option<Found>, Error> {
        if let Some(found) = self.found_elsewhere(digest).await? {
            return Ok(Some(found));
        }
        let Some(others) = &self.mirrors().others else { return Ok(None) };
        Ok(match self.fill_for_others(digest).await? {
            Said::Coming { size_bytes, fill } => {
                Some(Found::Coming(Filler { node: others.me(), fill, blob_bytes: size_bytes }))
            }
            Said::Held => Some(Found::Held),
            _ => None,
        })
    }

    /// Fetches a blob for other nodes, or joins who does, and says how long it is.
    pub(super) async fn fill_for_others(&self, digest: &Digest) -> Result<Said, Error> {
        if self.is_denied(digest).await {
            return Err(Error::BlobUnknown { digest: *digest });
        }
        let content = &self.registry.content;
        if content.running_fill(digest).is_none() {
            match self.local.stat_blob(digest).await {
                Ok(_size_bytes) => return Ok(Said::Held),
                Err(Error::BlobUnknown { .. }) => {}
                Err(error) => return Err(error),
            }
            match content.stat(digest).await {
                Ok(_size_bytes) => {
                    self.ask_for_blob_here(digest).await?;
                    self.registry.links.add(LinkKind::Layer, self.name(), digest).await?;
                    return Ok(Said::Held);
                }
                Err(content::Error::Unknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Another one may have asked while this one looked at what is held.
        if self.is_denied(digest).await {
            return Err(Error::BlobUnknown { digest: *digest });
        }
        let fill = self.fill(digest);
        let is_own = fill.remote().is(&self.origin());
        if !is_own {
            self.ask_for_blob_here(digest).await?;
            self.link_when_kept(fill.clone(), *digest);
        }
        let number = fill.number();
        match fill.size_bytes().await {
            Ok(size_bytes) => Ok(Said::Coming { size_bytes, fill: number }),
            Err(error) if is_own && error.is_not_found_upstream() => {
                self.deny(digest).await;
                Err(Error::BlobUnknown { digest: *digest })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn open_fill(&self, fill: Fill, range: Option<ByteRange>) -> Result<Content, Error> {
        let (is_own, digest) = (fill.remote().is(&self.origin()), fill.digest());
        match fill.open(range).await {
            Err(error) if is_own && error.is_not_found_upstream() => {
                self.deny(&digest).await;
                Err(Error::BlobUnknown { digest })
            }
            other => Ok(other?),
        }
    }

    /// Makes bytes that another repository holds part of this one, if the other registry says they are.
    async fn adopt_blob(
        &self,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Content, Error> {
        self.ask_for_blob(digest).await?;
        self.registry.links.add(LinkKind::Layer, self.name(), digest).await?;
        self.local.open_blob(digest, range).await
    }

    fn fill(&self, digest: &Digest) -> Fill {
        let (mirrored, filled) = (self.clone(), *digest);
        let after = move |end| mirrored.after_fill(filled, end).boxed();
        self.registry.content.fill(*digest, self.origin(), Box::new(after))
    }

    async fn after_fill(self, digest: Digest, end: FillEnd) {
        let metrics = &self.mirrors().metrics;
        match end {
            FillEnd::Stored { size_bytes } => {
                self.link(&digest).await;
                metrics.count_fill(&self.upstream, ("stored", size_bytes));
            }
            FillEnd::NotKept(_) => metrics.count_fill(&self.upstream, ("not_kept", 0)),
            FillEnd::Failed(error) => {
                // Before anybody else can have it fetched again.
                if error.is_not_found_upstream() {
                    self.deny(&digest).await;
                }
                metrics.count_fill(&self.upstream, (error.kind(), 0));
            }
        }
    }

    fn link_when_kept(&self, fill: Fill, digest: Digest) {
        let mirrored = self.clone();
        self.registry.tasks.spawn("link a blob", async move {
            fill.ended().await;
            if mirrored.registry.content.stat(&digest).await.is_ok() {
                mirrored.link(&digest).await;
            }
        });
    }

    async fn link(&self, digest: &Digest) {
        if let Err(error) = self.registry.links.add(LinkKind::Layer, self.name(), digest).await {
            let name = self.name();
            tracing::error!(%name, %digest, %error, "a fetched blob could not be linked");
        }
    }

    /// Asks the other registry for a blob's length, once for all who want to know.
    async fn ask_for_blob(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        if self.is_denied(digest).await {
            return Err(Error::BlobUnknown { digest: *digest });
        }
        match self.ask_others(Wish::Size(*digest)).await?.map(|(_, answer)| answer.said) {
            Some(Said::Size { bytes }) => Ok(bytes),
            _ => self.ask_for_blob_here(digest).await,
        }
    }

    /// The same, without other nodes.
    pub(super) async fn ask_for_blob_here(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        if self.is_denied(digest).await {
            return Err(Error::BlobUnknown { digest: *digest });
        }
        let (mirrored, wanted) = (self.clone(), *digest);
        let question = async move { mirrored.ask_for_blob_now(&wanted).await.map_err(Arc::new) };
        let answer = self.mirrors().sizes.run(self.place(digest), question).await?;
        answer.map_err(Error::Shared)
    }

    async fn ask_for_blob_now(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        match self.upstream.stat_blob(&self.remote, digest).await {
            Err(error) if error.is_not_found() => {
                self.deny(digest).await;
                Err(Error::BlobUnknown { digest: *digest })
            }
            other => Ok(other?),
        }
    }
}
