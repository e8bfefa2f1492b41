//! Notes of the uploads under way, because not every server lists them.
//!
//! A note is an object of its own, written before the first part and deleted after the last. A process
//! that dies between creating an upload and noting it down leaves one that only a server which lists
//! uploads can show.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, pieces};
use crate::storage::{Error, Key, layout};

/// An upload that was begun.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The object it is for.
    pub(super) key: String,
    /// The server's name for it.
    pub(super) upload_id: String,
}

/// The folder of the notes.
pub(super) fn folder() -> Key {
    let folder = format!("{}/multipart", layout::UNFINISHED);
    folder.parse().expect("constant components make a key")
}

/// Key and content of the note of an upload that begins now.
pub(super) fn entry(key: &Key, upload_id: &str) -> (Key, Entry) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let note = folder().join(format_args!("{:013}-{:016x}", now.as_millis(), fastrand::u64(..)));
    (note, Entry { key: key.as_str().to_owned(), upload_id: upload_id.to_owned() })
}

/// When the upload of a note began, from the note's name.
pub(super) fn began(name: &str) -> Option<SystemTime> {
    let millis = name.split_once('-')?.0.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Notes an upload down.
pub(super) async fn note(
    bucket: &Bucket,
    operation: &'static str,
    note: &Key,
    entry: Entry,
) -> Result<(), Error> {
    let text = serde_json::to_vec(&entry).expect("two strings make JSON");
    bucket.put(operation, note, pieces(Bytes::from(text))).await
}

/// Deletes a note. One that stays is found by the next purge, which aborts nothing then.
pub(super) async fn forget(bucket: &Bucket, note: &Key) {
    let request = bucket.client.delete_object().bucket(bucket.name()).key(bucket.path(note));
    if let Err(error) = request.send().await {
        let failure = super::fault::Failure::of(&error);
        tracing::debug!(%note, error = %failure, "the note of a finished upload stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_note_tells_when_its_upload_began() {
        let key: Key = "a/b".parse().unwrap();
        let (note, _entry) = entry(&key, "id");
        let name = note.as_str().rsplit('/').next().unwrap();
        let age = began(name).unwrap().elapsed().unwrap();
        assert!(age < Duration::from_secs(60), "{name}");
        for bad in ["", "x", "-", "x-1"] {
            assert_eq!(began(bad), None, "{bad}");
        }
    }
}
