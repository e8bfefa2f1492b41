//! Lists of mirrored repositories: tags and referrers.

use std::sync::Arc;

use moka::future::Cache;
use tokio::time::Instant;

use super::{
    Freshness, Mirrored, is_within,
    metrics::{Kind, Outcome},
    others::since,
    words::{Said, Wish},
};
use crate::{
    oci::{Descriptor, Digest, RepositoryName},
    registry::{Error, ReferrersPage, TagPage},
    runtime::{SingleFlight, Tasks},
};

/// Lists remembered at once.
const KNOWN_LISTS: u64 = 1_000;

type TagsResult = Result<Arc<Vec<String>>, Arc<Error>>;
type ReferrersResult = Result<Arc<Vec<Descriptor>>, Arc<Error>>;
type Subject = (RepositoryName, Digest);

/// Lists that were fetched, and those that are being fetched.
#[derive(Debug)]
pub(super) struct Lists {
    tags: Cache<RepositoryName, (Arc<Vec<String>>, Instant)>,
    referrers: Cache<Subject, (Arc<Vec<Descriptor>>, Instant)>,
    tag_fetches: SingleFlight<RepositoryName, TagsResult>,
    referrer_fetches: SingleFlight<Subject, ReferrersResult>,
}

impl Lists {
    pub(super) fn new(tasks: &Tasks) -> Self {
        Self {
            tags: Cache::new(KNOWN_LISTS),
            referrers: Cache::new(KNOWN_LISTS),
            tag_fetches: SingleFlight::new("list tags", tasks.clone()),
            referrer_fetches: SingleFlight::new("list referrers", tasks.clone()),
        }
    }
}

impl Mirrored {
    /// The tags after `last`, at most `limit` of them; all if there is no limit. If the other registry does not
    /// answer, those it had the last time, or else those that are held.
    ///
    /// # Errors
    /// [`Error::NameUnknown`]; [`Error::Upstream`] if nothing is known.
    pub async fn tags(
        &self,
        last: Option<&str>,
        limit: Option<usize>,
    ) -> Result<(TagPage, Freshness), Error> {
        let listed = self.list_tags(last, limit).await;
        let outcome = Outcome::of_freshness(&listed);
        self.mirrors().metrics.count(&self.upstream, Kind::Tags, outcome);
        listed
    }

    async fn list_tags(
        &self,
        last: Option<&str>,
        limit: Option<usize>,
    ) -> Result<(TagPage, Freshness), Error> {
        let (all, freshness) = match self.all_tags().await {
            Ok(all) => all,
            Err(why) if why.is_name_unknown() || !self.may_be_stale() => return Err(why),
            Err(why) => match self.local.tags(last, limit).await {
                Ok(page) => return Ok((page, Freshness::Stale)),
                Err(_nothing_held) => return Err(why),
            },
        };
        let last = last.unwrap_or_default();
        let start = all.partition_point(|tag| tag.as_str() <= last);
        let rest = &all[start..];
        let length = limit.unwrap_or(rest.len()).min(rest.len());
        let more = length > 0 && length < rest.len();
        Ok((TagPage { tags: rest[..length].to_vec(), more }, freshness))
    }

    /// Whether what is held may be listed. When it was last complete is not known, so that only a `max_stale`
    /// of nothing forbids it.
    fn may_be_stale(&self) -> bool {
        !self.upstream.policy().max_stale.is_zero()
    }

    async fn all_tags(&self) -> Result<(Arc<Vec<String>>, Freshness), Error> {
        let lists = &self.mirrors().lists;
        let known = lists.tags.get(self.name()).await;
        if let Some((all, fetched)) = &known
            && is_within(Some(*fetched), self.upstream.policy().tag_ttl)
        {
            return Ok((Arc::clone(all), Freshness::Current));
        }
        match (self.tags_anywhere().await, known) {
            (Ok(all), _) => Ok((all, Freshness::Current)),
            (Err(error), Some((all, fetched)))
                if !error.is_name_unknown()
                    && is_within(Some(fetched), self.upstream.policy().max_stale) =>
            {
                Ok((all, Freshness::Stale))
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn tags_anywhere(&self) -> Result<Arc<Vec<String>>, Error> {
        let told = self.ask_others(Wish::Tags).await?;
        let Some(Said::Tags { all, age_ms }) = told.map(|(_, answer)| answer.said) else {
            return Ok(self.tags_here().await?.0);
        };
        let all = Arc::new(all);
        let entry = (Arc::clone(&all), since(age_ms));
        self.mirrors().lists.tags.insert(self.name().clone(), entry).await;
        Ok(all)
    }

    /// All tags and when they were listed, without other nodes.
    pub(super) async fn tags_here(&self) -> Result<(Arc<Vec<String>>, Instant), Error> {
        let lists = &self.mirrors().lists;
        if let Some((all, fetched)) = lists.tags.get(self.name()).await
            && is_within(Some(fetched), self.upstream.policy().tag_ttl)
        {
            return Ok((all, fetched));
        }
        let mirrored = self.clone();
        let fetch = async move { mirrored.fetch_tags().await.map_err(Arc::new) };
        let fetched = lists.tag_fetches.run(self.name().clone(), fetch).await?;
        Ok((fetched.map_err(Error::Shared)?, Instant::now()))
    }

    async fn fetch_tags(&self) -> Result<Arc<Vec<String>>, Error> {
        let mut all = match self.upstream.tags(&self.remote).await {
            Err(error) if error.is_not_found() => {
                return Err(Error::NameUnknown { name: self.name().clone() });
            }
            other => other?,
        };
        all.sort_unstable();
        let all = Arc::new(all);
        let entry = (Arc::clone(&all), Instant::now());
        self.mirrors().lists.tags.insert(self.name().clone(), entry).await;
        Ok(all)
    }

    /// The referrers of `subject`, as of a hosted repository. If the other registry does not answer, those it
    /// had the last time, or else those that are held.
    ///
    /// # Errors
    /// [`Error::Upstream`] if nothing is known, or a fault of the storage.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        page: (Option<Digest>, usize),
    ) -> Result<(ReferrersPage, Freshness), Error> {
        let listed = self.list_referrers(subject, artifact_type, page).await;
        let outcome = Outcome::of_freshness(&listed);
        self.mirrors().metrics.count(&self.upstream, Kind::Referrers, outcome);
        listed
    }

    async fn list_referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        (last, limit): (Option<Digest>, usize),
    ) -> Result<(ReferrersPage, Freshness), Error> {
        let (all, freshness) = match self.all_referrers(subject).await {
            Ok(all) => all,
            Err(why) if !self.may_be_stale() => return Err(why),
            Err(why) => {
                let held = self.local.referrers(subject, artifact_type, (last, limit)).await?;
                // That there are none is something to know, and nothing to guess: signatures are found so.
                let is_known = !held.descriptors.is_empty();
                return if is_known { Ok((held, Freshness::Stale)) } else { Err(why) };
            }
        };
        let is_wanted = |referrer: &&Descriptor| {
            artifact_type.is_none_or(|wanted| {
                referrer.artifact_type.as_deref().unwrap_or_default() == wanted
            }) && last.is_none_or(|last| referrer.digest > last)
        };
        let mut descriptors: Vec<Descriptor> =
            all.iter().filter(is_wanted).take(limit.saturating_add(1)).cloned().collect();
        let more = descriptors.len() > limit;
        descriptors.truncate(limit);
        Ok((ReferrersPage { descriptors, more }, freshness))
    }

    async fn all_referrers(
        &self,
        subject: &Digest,
    ) -> Result<(Arc<Vec<Descriptor>>, Freshness), Error> {
        let lists = &self.mirrors().lists;
        let key = self.place(subject);
        let known = lists.referrers.get(&key).await;
        if let Some((all, fetched)) = &known
            && is_within(Some(*fetched), self.upstream.policy().tag_ttl)
        {
            return Ok((Arc::clone(all), Freshness::Current));
        }
        match (self.referrers_anywhere(subject).await, known) {
            (Ok(all), _) => Ok((all, Freshness::Current)),
            (Err(_), Some((all, fetched)))
                if is_within(Some(fetched), self.upstream.policy().max_stale) =>
            {
                Ok((all, Freshness::Stale))
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn referrers_anywhere(&self, subject: &Digest) -> Result<Arc<Vec<Descriptor>>, Error> {
        let told = self.ask_others(Wish::Referrers(*subject)).await?;
        let Some(Said::Referrers { all, age_ms }) = told.map(|(_, answer)| answer.said) else {
            return Ok(self.referrers_here(subject).await?.0);
        };
        let all = Arc::new(all);
        let entry = (Arc::clone(&all), since(age_ms));
        self.mirrors().lists.referrers.insert(self.place(subject), entry).await;
        Ok(all)
    }

    /// What refers to a manifest, and when that was asked, without other nodes.
    pub(super) async fn referrers_here(
        &self,
        subject: &Digest,
    ) -> Result<(Arc<Vec<Descriptor>>, Instant), Error> {
        let (lists, key) = (&self.mirrors().lists, self.place(subject));
        if let Some((all, fetched)) = lists.referrers.get(&key).await
            && is_within(Some(fetched), self.upstream.policy().tag_ttl)
        {
            return Ok((all, fetched));
        }
        let (mirrored, wanted) = (self.clone(), *subject);
        let fetch = async move { mirrored.fetch_referrers(&wanted).await.map_err(Arc::new) };
        let fetched = lists.referrer_fetches.run(key, fetch).await?;
        Ok((fetched.map_err(Error::Shared)?, Instant::now()))
    }

    async fn fetch_referrers(&self, subject: &Digest) -> Result<Arc<Vec<Descriptor>>, Error> {
        let mut all = self.upstream.referrers(&self.remote, subject).await?;
        all.sort_unstable_by_key(|descriptor| descriptor.digest);
        let all = Arc::new(all);
        let entry = (Arc::clone(&all), Instant::now());
        self.mirrors().lists.referrers.insert(self.place(subject), entry).await;
        Ok(all)
    }
}
