//! How listings of whole trees go on.
//!
//! Our listings go on after a text, S3's also with a token of the server. For whole trees only the token
//! will do: asked to start after a key, `MinIO` (until 2026 at least) counts objects before that key
//! against the size of the page, and silently leaves out as many behind it. What is not listed may be
//! taken for garbage, so a listing whose token is not known starts over and skips.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Listings that can be under way at once without starting over.
const MAX_BOOKMARKS: usize = 64;

/// `MinIO` forgets a listing that was not asked for within three minutes.
const LIFETIME: Duration = Duration::from_secs(120);

/// Tokens of the pages to come.
#[derive(Debug, Default)]
pub(super) struct Bookmarks(Mutex<VecDeque<Bookmark>>);

#[derive(Debug)]
struct Bookmark {
    folder: String,
    after: String,
    token: String,
    made: Instant,
}

impl Bookmarks {
    /// The token of the page that has what comes after `after`.
    pub(super) fn find(&self, folder: &str, after: &str) -> Option<String> {
        let bookmarks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut young = bookmarks.iter().rev().take_while(|mark| mark.made.elapsed() < LIFETIME);
        let found = young.find(|mark| mark.folder == folder && mark.after == after);
        found.map(|mark| mark.token.clone())
    }

    /// Keeps a token. The oldest one makes room for it.
    pub(super) fn put(&self, folder: &str, after: String, token: String) {
        let mut bookmarks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bookmarks.len() == MAX_BOOKMARKS {
            bookmarks.pop_front();
        }
        let (folder, made) = (folder.to_owned(), Instant::now());
        bookmarks.push_back(Bookmark { folder, after, token, made });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bookmarks_are_few_and_young() {
        let bookmarks = Bookmarks::default();
        for page in 0..=MAX_BOOKMARKS {
            bookmarks.put("a/", page.to_string(), format!("token-{page}"));
        }
        assert_eq!(bookmarks.find("a/", "0"), None, "the oldest made room");
        assert_eq!(bookmarks.find("a/", "1").as_deref(), Some("token-1"));
        assert_eq!(bookmarks.find("b/", "1"), None);
        tokio::time::advance(LIFETIME).await;
        assert_eq!(bookmarks.find("a/", "1"), None, "the server may have forgotten");
    }
}
