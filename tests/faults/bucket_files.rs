//! What is in the bucket, and how it is reached.

use std::path::{Path, PathBuf};

use reqwest::Client;
use tokio::sync::OnceCell;

use crate::{
    cluster::until, content::Blob, ports::free_ports, process::Process, s3_server::S3Server,
};

/// The files of a bucket into which all blobs were pushed.
static FILES: OnceCell<Vec<(PathBuf, Vec<u8>)>> = OnceCell::const_new();

/// Puts all blobs into a bucket.
pub(crate) async fn put(s3: &S3Server, http: &Client) {
    let files = FILES.get_or_init(async || push(http).await).await;
    for (path, bytes) in files {
        let path = s3.files().join(path);
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        std::fs::write(path, bytes).expect("a file");
    }
}

/// Pushes all blobs into another bucket.
async fn push(http: &Client) -> Vec<(PathBuf, Vec<u8>)> {
    let (s3, ports) = (S3Server::start().await, free_ports(2));
    let config = settings(&s3, s3.endpoint(), false);
    let mut process = Process::alone((ports[0], ports[1]), &config);
    let ready = format!("{}/readyz", process.admin_url);
    let is_ready =
        async || http.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200);
    until("the process that pushes is there", is_ready).await;
    for blob in [Blob::some(), Blob::later()].concat() {
        let uploads = format!("{}/v2/{}/blobs/uploads/", process.url, Blob::REPOSITORY);
        let pushed = http.post(format!("{uploads}?digest={}", blob.digest)).body(blob.bytes).send();
        assert_eq!(pushed.await.expect("it answers").status(), 201);
    }
    process.terminate();
    until("it ends", async || process.has_ended()).await;
    let mut files = Vec::new();
    collect(&s3.files(), Path::new(""), &mut files);
    files
}

fn collect(root: &Path, below: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(root.join(below)).expect("a folder") {
        let entry = entry.expect("it can be listed");
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            collect(root, &path, files);
        } else {
            files.push((path, std::fs::read(entry.path()).expect("a file")));
        }
    }
}

/// The settings of the bucket.
pub(crate) fn settings(s3: &S3Server, endpoint: &str, has_wrong_key: bool) -> String {
    let secret_key = if has_wrong_key { "not-the-right-one" } else { s3.secret_key() };
    format!(
        "storage: {{s3: {{endpoint: '{endpoint}', bucket: {bucket}, access_key: {access_key}, \
         secret_key: {secret_key}, spool: '{spool}', part: 5MiB, retry_backoff: 5ms}}}}\n",
        bucket = s3.bucket(),
        access_key = s3.access_key(),
        spool = s3.spool().display(),
    )
}
