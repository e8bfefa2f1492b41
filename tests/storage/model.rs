//! A storage as simple as can be: what the others are compared with.

use std::collections::BTreeMap;

use bytes::Bytes;
use millpond::storage::{Depth, ListQuery};

/// Objects under keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) objects: BTreeMap<String, Bytes>,
}

impl Model {
    /// The sort keys that a listing has, and whether more follow.
    pub(crate) fn list(&self, prefix: &str, query: &ListQuery) -> (Vec<String>, bool) {
        let folder = format!("{prefix}/");
        let names = self.objects.keys().filter_map(|key| key.strip_prefix(&folder));
        let mut entries: Vec<String> = names
            .map(|name| match (query.depth, name.find('/')) {
                (Depth::Children, Some(slash)) => name[..=slash].to_owned(),
                (Depth::Children, None) | (Depth::All, _) => name.to_owned(),
            })
            .filter(|entry| query.after.as_ref().is_none_or(|after| entry > after))
            .collect();
        entries.sort_unstable();
        entries.dedup();
        let more = entries.len() > query.limit;
        entries.truncate(query.limit);
        (entries, more)
    }
}
