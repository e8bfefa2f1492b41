//! Listings: their order, their pages, their edges.

use millpond::storage::{Depth, Entry, ListQuery, Storage};

use super::{key, list, pattern};
use crate::model::Model;

/// Keys whose order differs from that of their components, since `+ - .` sort before `/` and digits
/// behind it.
const NAMES: [&str; 14] = [
    "a+/z",
    "a-b",
    "a.b",
    "a.c/y",
    "a/b-c/d",
    "a/b/c",
    "a/x",
    "a/x1/y",
    "a/x1/z",
    "a0",
    "aa/deep/er/still",
    "b",
    "c/only",
    "ca",
];

/// The same objects in a storage and in a model of it.
async fn fill(storage: &dyn Storage, folder: &str) -> Model {
    let mut model = Model::default();
    for name in NAMES {
        let path = format!("{folder}/{name}");
        storage.put(&key(&path), pattern(name.len(), 1)).await.unwrap();
        model.objects.insert(path, pattern(name.len(), 1));
    }
    model
}

pub(crate) async fn children_come_in_the_order_of_full_keys(storage: &dyn Storage) {
    fill(storage, "order").await;
    let listing = storage.list(&key("order"), ListQuery::children(100)).await.unwrap();
    let names: Vec<_> = listing.entries.iter().map(Entry::sort_key).collect();
    assert_eq!(names, ["a+/", "a-b", "a.b", "a.c/", "a/", "a0", "aa/", "b", "c/", "ca"]);
    assert!(!listing.more);
    let Some(Entry::Object { name, meta }) = listing.entries.get(1) else {
        panic!("{:?}", listing.entries)
    };
    assert_eq!((name.as_str(), meta.size_bytes), ("a-b", 3));
    let (names, more) = list(storage, &key("order"), ListQuery::all(100)).await.unwrap();
    assert_eq!((names, more), (NAMES.map(str::to_owned).to_vec(), false));
}

pub(crate) async fn pages_join_to_the_whole(storage: &dyn Storage) {
    let model = fill(storage, "pages").await;
    for folder in ["pages", "pages/a", "pages/aa"] {
        for depth in [Depth::Children, Depth::All] {
            let (whole, _more) = model.list(folder, &ListQuery { depth, after: None, limit: 100 });
            for limit in 1..=whole.len() + 1 {
                let mut query = ListQuery { depth, after: None, limit };
                let mut joined = Vec::new();
                loop {
                    let (names, more) = list(storage, &key(folder), query.clone()).await.unwrap();
                    assert!(names.len() <= limit && (!more || !names.is_empty()), "{query:?}");
                    joined.extend(names);
                    let Some(last) = joined.last().filter(|_| more) else { break };
                    query = query.after(last.clone());
                }
                assert_eq!(joined, whole, "{folder} {depth:?} by {limit}");
            }
        }
    }
}

pub(crate) async fn names_that_share_a_beginning_are_kept_apart(storage: &dyn Storage) {
    fill(storage, "apart").await;
    let (names, more) = list(storage, &key("apart/a"), ListQuery::children(100)).await.unwrap();
    assert_eq!((names.join(" "), more), ("b-c/ b/ x x1/".to_owned(), false));
    let (names, _more) = list(storage, &key("apart/a/x1"), ListQuery::all(100)).await.unwrap();
    assert_eq!(names, ["y", "z"]);
}

pub(crate) async fn a_listing_goes_on_after_any_text(storage: &dyn Storage) {
    let model = fill(storage, "after").await;
    let afters = [
        "", "0", "a", "a+", "a+/", "a-", "a-b", "a-c", "a/", "a/b", "a/b/", "a/b/c", "a/x", "a/x1",
        "a0", "aa", "b", "c", "c/", "c/only", "c/zzz", "ca", "zz",
    ];
    for depth in [Depth::Children, Depth::All] {
        for after in afters {
            for limit in [1, 2, 100] {
                let query = ListQuery { depth, after: Some(after.to_owned()), limit };
                let actual = list(storage, &key("after"), query.clone()).await.unwrap();
                assert_eq!(actual, model.list("after", &query), "{query:?}");
            }
        }
    }
}

pub(crate) async fn an_unknown_folder_is_empty(storage: &dyn Storage) {
    storage.put(&key("unknown-not/object"), pattern(1, 1)).await.unwrap();
    for query in [ListQuery::children(10), ListQuery::all(10), ListQuery::all(10).after("x")] {
        let actual = list(storage, &key("unknown"), query.clone()).await.unwrap();
        assert_eq!(actual, (Vec::new(), false), "{query:?}");
    }
    let (names, _more) = list(storage, &key("unknown-not"), ListQuery::children(0)).await.unwrap();
    assert!(names.is_empty(), "at most none");
}
