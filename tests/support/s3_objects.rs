//! What the S3 server in the test serves: objects as files, by `s3s-fs`, corrected where that differs
//! from what S3 does.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use s3s::{
    Body, S3, S3Error, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CopyPartResult,
        CopySource, CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput,
        DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, GetObjectInput,
        GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListMultipartUploadsInput,
        ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output, MultipartUpload,
        PutObjectInput, PutObjectOutput, Range, UploadPartCopyInput, UploadPartCopyOutput,
        UploadPartInput, UploadPartOutput,
    },
    s3_error,
};
use s3s_fs::FileSystem;

/// Put into the extensions of a request, it replaces the range that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OtherRange {
    /// These bytes, first and last, or all of them.
    This(Option<(u64, u64)>),
    /// No more than the first so many of those asked for, if both ends of them are named.
    First(u64),
}

impl OtherRange {
    fn instead_of(self, asked: Option<Range>) -> Option<Range> {
        match (self, asked) {
            (Self::This(range), _) => {
                range.map(|(first, last)| Range::Int { first, last: Some(last) })
            }
            (Self::First(bytes), Some(Range::Int { first, last: Some(last) })) => {
                Some(Range::Int { first, last: Some(last.min(first + bytes - 1)) })
            }
            (Self::First(_), open) => open,
        }
    }
}

/// Buckets that are folders of a root.
pub(crate) struct S3Objects {
    files: FileSystem,
    root: PathBuf,
    uploads: Mutex<HashMap<String, Upload>>,
    /// Whether it lists multipart uploads, which many servers do not.
    shows_uploads: Arc<AtomicBool>,
}

struct Object {
    file: File,
    size_bytes: u64,
    modified: SystemTime,
}

impl Object {
    /// The bytes of `range`, or all of them, and the `Content-Range` of a part.
    fn read(mut self, range: Option<Range>) -> S3Result<(Bytes, Option<String>)> {
        let size_bytes = self.size_bytes;
        let checked = range.map(|range| range.check(size_bytes)).transpose()?;
        let header = checked
            .as_ref()
            .map(|part| format!("bytes {}-{}/{size_bytes}", part.start, part.end - 1));
        let part = checked.unwrap_or(0..size_bytes);
        let length = part.end - part.start;
        let mut bytes = Vec::with_capacity(length as usize);
        self.file.seek(SeekFrom::Start(part.start)).map_err(S3Error::internal_error)?;
        self.file.take(length).read_to_end(&mut bytes).map_err(S3Error::internal_error)?;
        Ok((bytes.into(), header))
    }
}

struct Upload {
    key: String,
    initiated: SystemTime,
}

impl S3Objects {
    /// Serves the folders in `root`, and lists multipart uploads while `shows_uploads` is set.
    pub(crate) fn new(root: &Path, shows_uploads: Arc<AtomicBool>) -> Self {
        let files = FileSystem::new(root).expect("the root is there");
        Self { files, root: root.to_owned(), uploads: Mutex::default(), shows_uploads }
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().expect("no test panics while it holds this")
    }

    /// An object as it is at this moment, whatever becomes of it. `s3s-fs` reads 4 KiB at a time.
    fn open(&self, bucket: &str, key: &str) -> S3Result<Object> {
        let file = File::open(self.root.join(bucket).join(key)).ok();
        let file = file.filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()));
        // A folder is no object.
        let file = file.ok_or_else(|| s3_error!(NoSuchKey))?;
        let meta = file.metadata().map_err(S3Error::internal_error)?;
        let modified = meta.modified().map_err(S3Error::internal_error)?;
        Ok(Object { file, size_bytes: meta.len(), modified })
    }

    fn source(&self, source: &CopySource) -> S3Result<Object> {
        match source {
            CopySource::Bucket { bucket, key, .. } => self.open(bucket, key),
            CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
                Err(s3_error!(NotImplemented))
            }
        }
    }

    /// `s3s-fs` keeps notes on each object in a file whose name is longer than the object's key. Where that
    /// is too long for a file name it fails, after the object is in place.
    fn forgive_long_keys<T: Default>(
        &self,
        bucket: &str,
        key: &str,
        answer: S3Result<S3Response<T>>,
    ) -> S3Result<S3Response<T>> {
        const LONGEST_NOTED_KEY: usize = 120;
        match answer {
            Err(_) if key.len() > LONGEST_NOTED_KEY && self.open(bucket, key).is_ok() => {
                Ok(S3Response::new(T::default()))
            }
            other => other,
        }
    }

    fn check_upload(&self, id: &str) -> S3Result<()> {
        if self.uploads().contains_key(id) { Ok(()) } else { Err(s3_error!(NoSuchUpload)) }
    }
}

#[async_trait::async_trait]
impl S3 for S3Objects {
    async fn get_object(
        &self,
        mut request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        if let Some(other) = request.extensions.get::<OtherRange>() {
            request.input.range = other.instead_of(request.input.range);
        }
        let object = self.open(&request.input.bucket, &request.input.key)?;
        let modified = object.modified;
        let (bytes, content_range) = object.read(request.input.range)?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: i64::try_from(bytes.len()).ok(),
            body: Some(Body::from(bytes).into()),
            content_range,
            last_modified: Some(modified.into()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.open(&request.input.bucket, &request.input.key)?;
        self.files.head_object(request).await
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let put = self.files.put_object(request).await;
        self.forgive_long_keys(&bucket, &key, put)
    }

    /// Copies like S3, at once, and not byte by byte into the object that is there.
    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let (bytes, _header) = self.source(&request.input.copy_source)?.read(None)?;
        let target = PutObjectInput::builder()
            .bucket(request.input.bucket.clone())
            .key(request.input.key.clone())
            .storage_class(request.input.storage_class.clone())
            .content_length(i64::try_from(bytes.len()).ok())
            .body(Some(Body::from(bytes).into()))
            .build();
        let target = target.map_err(|_missing| s3_error!(InvalidArgument))?;
        self.put_object(request.map_input(|_copy| target)).await?;
        Ok(S3Response::new(CopyObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.files.list_objects_v2(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.files.delete_objects(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let key = request.input.key.clone();
        let answer = self.files.create_multipart_upload(request).await?;
        let id = answer.output.upload_id.clone().unwrap_or_default();
        self.uploads().insert(id, Upload { key, initiated: SystemTime::now() });
        Ok(answer)
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.check_upload(&request.input.upload_id)?;
        self.files.upload_part(request).await
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.check_upload(&request.input.upload_id)?;
        let range = request.input.copy_source_range.as_deref().map(Range::parse).transpose();
        let range = range.map_err(|_malformed| s3_error!(InvalidArgument))?;
        let (bytes, _header) = self.source(&request.input.copy_source)?.read(range)?;
        let part = UploadPartInput::builder()
            .bucket(request.input.bucket.clone())
            .key(request.input.key.clone())
            .upload_id(request.input.upload_id.clone())
            .part_number(request.input.part_number)
            .body(Some(Body::from(bytes).into()))
            .build();
        let part = part.map_err(|_missing| s3_error!(InvalidArgument))?;
        let answer = self.files.upload_part(request.map_input(|_copy| part)).await?;
        let result = CopyPartResult { e_tag: answer.output.e_tag, ..CopyPartResult::default() };
        let output = UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..UploadPartCopyOutput::default()
        };
        Ok(S3Response::new(output))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let id = request.input.upload_id.clone();
        self.check_upload(&id)?;
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let answer = self.files.complete_multipart_upload(request).await;
        let answer = self.forgive_long_keys(&bucket, &key, answer)?;
        self.uploads().remove(&id);
        Ok(answer)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let id = request.input.upload_id.clone();
        self.check_upload(&id)?;
        let answer = self.files.abort_multipart_upload(request).await?;
        self.uploads().remove(&id);
        Ok(answer)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        if !self.shows_uploads.load(Ordering::Relaxed) {
            return Err(s3_error!(NotImplemented));
        }
        let prefix = request.input.prefix.unwrap_or_default();
        let uploads = self.uploads();
        let uploads = uploads.iter().filter(|(_id, upload)| upload.key.starts_with(&prefix));
        let uploads = uploads.map(|(id, upload)| MultipartUpload {
            key: Some(upload.key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(upload.initiated.into()),
            ..MultipartUpload::default()
        });
        let uploads = Some(uploads.collect());
        let output =
            ListMultipartUploadsOutput { uploads, ..ListMultipartUploadsOutput::default() };
        Ok(S3Response::new(output))
    }
}
