//! Tags: names that point to manifests.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::{
    Error, Repository,
    manifests::link_digest,
    ordered::{self, FolderNames},
};
use crate::{
    oci::{Digest, Tag},
    storage::{Key, layout},
};

/// Some tags of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPage {
    /// The tags, in byte order.
    pub tags: Vec<String>,
    /// Whether more follow.
    pub more: bool,
}

impl Repository {
    /// The tags after `last`, at most `limit` of them; all if there is no limit.
    ///
    /// # Errors
    /// [`Error::NameUnknown`] if the repository does not exist; or a fault of the storage.
    pub async fn tags(&self, last: Option<&str>, limit: Option<usize>) -> Result<TagPage, Error> {
        let folder = layout::tags(&self.name);
        let is_tag = |name: &String| name.parse::<Tag>().is_ok();
        let storage = &*self.registry.storage;
        let last = last.unwrap_or_default();
        let page = match limit {
            None => {
                let mut tags = ordered::all_names(storage, &folder).await?;
                tags.retain(|name| is_tag(name) && name.as_str() > last);
                TagPage { tags, more: false }
            }
            Some(limit) => {
                let mut names = FolderNames::after(storage, folder, last, limit.saturating_add(1));
                let mut tags = Vec::new();
                while tags.len() <= limit {
                    match names.next().await? {
                        Some(name) if name.as_str() > last && is_tag(&name) => tags.push(name),
                        Some(_) => {}
                        None => break,
                    }
                }
                let more = limit > 0 && tags.len() > limit;
                tags.truncate(limit);
                TagPage { tags, more }
            }
        };
        if page.tags.is_empty() && !self.exists().await? {
            return Err(Error::NameUnknown { name: self.name.clone() });
        }
        Ok(page)
    }

    /// What a tag points to now. Always asks the storage, and after it was called, also where it is asked once for
    /// several readers: a read never returns an older value than the last acknowledged push, whichever process
    /// took it.
    pub(super) async fn resolve_tag(&self, tag: &Tag) -> Result<Option<Digest>, Error> {
        self.registry.links.read_tag(&self.name, tag).await
    }

    /// Writes down that `tags` have pointed to `digest`: docker-registry's garbage collector expects it.
    pub(super) async fn note_tags(&self, tags: &[&Tag], digest: &Digest) -> Result<(), Error> {
        let keys: Vec<Key> =
            tags.iter().map(|tag| layout::tag_index(&self.name, tag, digest)).collect();
        self.write_links(&keys, digest).await
    }

    /// Points `tags` at a manifest that is in the repository.
    pub(super) async fn move_tags(&self, tags: &[&Tag], digest: &Digest) -> Result<(), Error> {
        let keys: Vec<Key> = tags.iter().map(|tag| layout::tag_current(&self.name, tag)).collect();
        self.write_links(&keys, digest).await
    }

    async fn write_links(&self, keys: &[Key], digest: &Digest) -> Result<(), Error> {
        let links = &self.registry.links;
        try_join_all(keys.iter().map(|key| links.write(key, digest))).await?;
        Ok(())
    }

    /// Deletes a tag; says whether there was one.
    ///
    /// # Cancel safety
    /// The history goes first, the note of where the tag points now as the last of it, and then the name. So a
    /// deletion that stops half way leaves a tag that can be read and that [`Self::tags_of`] finds.
    pub(super) async fn delete_tag(&self, tag: &Tag) -> Result<bool, Error> {
        let folder = layout::tag(&self.name, tag);
        let names = self.keys_below(&folder).await?;
        let current = layout::tag_current(&self.name, tag);
        let points_to = self.resolve_tag(tag).await?;
        let note = points_to.map(|digest| layout::tag_index(&self.name, tag, &digest));
        let mut keys: Vec<Key> = names.iter().map(|name| folder.join(name)).collect();
        let existed = keys.contains(&current);
        keys.sort_by_key(|key| (*key == current, note.as_ref() == Some(key)));
        self.registry.storage.delete(&keys).await?;
        Ok(existed)
    }

    /// The tags that point to `digest` now. Candidates come from the tags' histories, all of them in one
    /// listing for a thousand entries; only those are looked at one by one, and those without a history,
    /// because whoever made them was stopped.
    pub(super) async fn tags_of(&self, digest: &Digest) -> Result<Vec<Tag>, Error> {
        let names = self.keys_below(&layout::tags(&self.name)).await?;
        let mut histories: BTreeMap<Tag, Vec<Digest>> = BTreeMap::new();
        for name in &names {
            let Some((tag, entry)) = name.split_once('/') else { continue };
            let Ok(tag) = tag.parse() else { continue };
            let history = histories.entry(tag).or_default();
            history.extend(entry.strip_prefix("index/").and_then(link_digest));
        }
        let points_there =
            |(_, history): &(Tag, Vec<Digest>)| history.is_empty() || history.contains(digest);
        let candidates = histories.into_iter().filter(points_there).map(|(tag, _)| tag);
        let mut tags = Vec::new();
        for tag in candidates {
            if self.resolve_tag(&tag).await?.as_ref() == Some(digest) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }
}
