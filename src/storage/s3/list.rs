//! Listing folders.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::{
    bucket::{Bucket, meta, nonsense},
    fault::failed,
};
use crate::storage::{Depth, Entry, Error, Key, ListQuery, Listing};

/// Most entries that S3 returns at once.
const MAX_ENTRIES: usize = 1000;

/// Sorts behind every byte that a key may have, and so behind everything in a folder.
const LAST: &str = "~";

/// Lists what lies under `prefix`.
///
/// Names that are no keys are left out: what they stand for is not ours, and could not be opened.
pub(super) async fn list(
    bucket: &Bucket,
    operation: &'static str,
    prefix: &Key,
    query: &ListQuery,
) -> Result<Listing, Error> {
    let folder =
        Folder { bucket, operation, key: prefix, path: format!("{}/", bucket.path(prefix)) };
    let mut token = match (query.depth, &query.after) {
        (Depth::All, Some(after)) => bucket.bookmarks.find(&folder.path, after),
        (Depth::All, None) | (Depth::Children, _) => None,
    };
    // A page of which nothing is wanted is followed by the next, so that an empty page is the last.
    loop {
        let page = folder.page(query, token.clone()).await?;
        let next = page.next_continuation_token.clone();
        let mut more = page.is_truncated.unwrap_or(false);
        let mut entries = folder.entries(query, page)?;
        if entries.is_empty() && more {
            token = Some(next.ok_or_else(|| folder.nonsense("a page without a way to the next"))?);
            continue;
        }
        if entries.len() > query.limit {
            entries.truncate(query.limit);
            more = true;
        } else {
            token = next;
        }
        if let (Depth::All, true, Some(last), Some(token)) =
            (query.depth, more, entries.last(), token)
        {
            bucket.bookmarks.put(&folder.path, last.sort_key(), token);
        }
        return Ok(Listing { entries, more });
    }
}

struct Folder<'a> {
    bucket: &'a Bucket,
    operation: &'static str,
    key: &'a Key,
    /// Where it is in the bucket, with a slash at the end.
    path: String,
}

impl Folder<'_> {
    async fn page(
        &self,
        query: &ListQuery,
        token: Option<String>,
    ) -> Result<ListObjectsV2Output, Error> {
        // Where entries may have to be skipped, there is room for more than are wanted.
        let limit = if query.depth == Depth::All && query.after.is_some() && token.is_none() {
            MAX_ENTRIES
        } else {
            query.limit.clamp(1, MAX_ENTRIES)
        };
        let limit = i32::try_from(limit).expect("1000 is an i32");
        let request = self
            .bucket
            .client
            .list_objects_v2()
            .bucket(self.bucket.name())
            .prefix(&self.path)
            .set_delimiter((query.depth == Depth::Children).then(|| "/".to_owned()))
            .set_start_after(start_after(&self.path, query))
            .set_continuation_token(token)
            .max_keys(limit);
        request.send().await.map_err(|error| failed(self.operation, self.key, &error))
    }

    fn entries(&self, query: &ListQuery, page: ListObjectsV2Output) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for object in page.contents.unwrap_or_default() {
            let Some(name) = self.name(object.key.as_deref()) else { continue };
            let name = name.to_owned();
            let meta = meta(object.size, object.last_modified);
            let meta = meta.ok_or_else(|| self.nonsense("no size or no date"))?;
            entries.push(Entry::Object { name, meta });
        }
        for common in page.common_prefixes.unwrap_or_default() {
            let path = common.prefix.as_deref().and_then(|path| path.strip_suffix('/'));
            let Some(name) = self.name(path) else { continue };
            entries.push(Entry::Folder { name: name.to_owned() });
        }
        // A server may return the folder that `after` lies in once more.
        if let Some(after) = &query.after {
            entries.retain(|entry| entry.sort_key() > *after);
        }
        entries.sort_by_cached_key(Entry::sort_key);
        Ok(entries)
    }

    /// The name below the folder, if it is one that keys have. The mark that some tools leave for the
    /// folder itself has none.
    fn name<'p>(&self, path: Option<&'p str>) -> Option<&'p str> {
        let name = path?.strip_prefix(&self.path)?;
        name.parse::<Key>().is_ok().then_some(name)
    }

    fn nonsense(&self, what: &'static str) -> Error {
        nonsense(self.operation, self.key, what)
    }
}

/// Where the server starts: behind the whole of a folder that was listed already. Listings of whole trees
/// go on by bookmarks.
fn start_after(folder: &str, query: &ListQuery) -> Option<String> {
    let after = query.after.as_deref()?;
    match (query.depth, after.split_once('/')) {
        (Depth::Children, Some((name, _within))) => Some(format!("{folder}{name}/{LAST}")),
        (Depth::Children, None) => Some(format!("{folder}{after}")),
        (Depth::All, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_on_behind_the_whole_folder() {
        let children = ListQuery::children(10);
        let cases = [
            (children.clone(), None),
            (children.clone().after("v1"), Some("tags/v1")),
            (children.clone().after("v1/"), Some("tags/v1/~")),
            (children.after("v1/current"), Some("tags/v1/~")),
            (ListQuery::all(10).after("v1/current"), None),
        ];
        for (query, expected) in cases {
            assert_eq!(start_after("tags/", &query).as_deref(), expected, "{query:?}");
        }
    }
}
