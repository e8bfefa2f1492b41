//! Deleting objects.

use std::{collections::HashMap, sync::atomic::Ordering};

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    bucket::{Bucket, nonsense},
    fault::{Failure, failed, refused},
};
use crate::storage::{Error, Key};

/// Most keys of one batch.
const BATCH_KEYS: usize = 1000;

/// Single deletes under way at once, where the server knows no batches.
const SINGLE_DELETES: usize = 16;

const OPERATION: &str = "delete";

/// Deletes objects, in batches where that saves requests.
pub(super) async fn delete(bucket: &Bucket, keys: &[Key]) -> Result<(), Error> {
    if let [key] = keys {
        return delete_one(bucket, key).await;
    }
    for keys in keys.chunks(BATCH_KEYS) {
        if bucket.deletes_one_by_one.load(Ordering::Relaxed) {
            delete_singly(bucket, keys).await?;
            continue;
        }
        match delete_batch(bucket, keys).await? {
            Batch::Done => {}
            Batch::Unknown => {
                tracing::info!(%bucket, "the server knows no batch deletes; deleting one by one");
                bucket.deletes_one_by_one.store(true, Ordering::Relaxed);
                delete_singly(bucket, keys).await?;
            }
        }
    }
    Ok(())
}

async fn delete_one(bucket: &Bucket, key: &Key) -> Result<(), Error> {
    let request = bucket.client.delete_object().bucket(bucket.name()).key(bucket.path(key));
    match request.send().await.map_err(|error| failed(OPERATION, key, &error)) {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

async fn delete_singly(bucket: &Bucket, keys: &[Key]) -> Result<(), Error> {
    let deletes =
        stream::iter(keys.to_vec()).map(|key| async move { delete_one(bucket, &key).await });
    deletes.buffer_unordered(SINGLE_DELETES).try_collect().await
}

enum Batch {
    Done,
    Unknown,
}

async fn delete_batch(bucket: &Bucket, keys: &[Key]) -> Result<Batch, Error> {
    let paths: HashMap<String, &Key> = keys.iter().map(|key| (bucket.path(key), key)).collect();
    let objects = paths.keys().map(|path| {
        ObjectIdentifier::builder().key(path).build().expect("an identifier with a key is complete")
    });
    let delete = Delete::builder().set_objects(Some(objects.collect())).quiet(true).build();
    let delete = delete.expect("a batch with objects is complete");
    let request = bucket.client.delete_objects().bucket(bucket.name()).delete(delete);
    // What comes back says nothing about one key; the first stands for all.
    let Some(first) = keys.first() else { return Ok(Batch::Done) };
    let answer = match request.customize().config_override(bucket.server_side()).send().await {
        Ok(answer) => answer,
        Err(error) if is_unknown(&Failure::of(&error)) => return Ok(Batch::Unknown),
        Err(error) => return Err(failed(OPERATION, first, &error)),
    };
    for error in answer.errors.unwrap_or_default() {
        let key = error.key.as_deref().and_then(|path| paths.get(path).copied());
        let key = key.ok_or_else(|| nonsense(OPERATION, first, "an error for another key"))?;
        let (code, message) = (error.code.unwrap_or_default(), error.message.unwrap_or_default());
        let error = refused(OPERATION, key, &code, &message);
        if !error.is_not_found() {
            return Err(error);
        }
    }
    Ok(Batch::Done)
}

/// Whether the server knows no batch deletes, or none with the checksums that the SDK sends: `OpenStack`
/// Swift wants `Content-MD5`, Google has no such request.
fn is_unknown(failure: &Failure) -> bool {
    let refused = matches!(failure.status(), Some(400 | 405 | 411 | 501));
    let other_fault = matches!(failure.code(), "RequestTimeout" | "MalformedXML" | "NoSuchBucket");
    refused && !other_fault
}
