//! Requests to a node, and answers that say what they were to when they are not as expected.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::{content::sha256, node::TestNode};

/// A request that is not sent yet.
pub(crate) struct Ask {
    request: reqwest::RequestBuilder,
    line: String,
}

/// What came back, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    line: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl TestNode {
    /// A request for `target`: a path, or a URL such as `Location` may hold.
    pub(crate) fn ask(&self, method: Method, target: &str) -> Ask {
        let url =
            if target.starts_with('/') { format!("{}{target}", self.url()) } else { target.into() };
        Ask { line: format!("{method} {target}"), request: self.http().request(method, url) }
    }

    pub(crate) fn get(&self, target: &str) -> Ask {
        self.ask(Method::GET, target)
    }

    pub(crate) fn head(&self, target: &str) -> Ask {
        self.ask(Method::HEAD, target)
    }

    pub(crate) fn post(&self, target: &str) -> Ask {
        self.ask(Method::POST, target).header("content-length", "0")
    }

    pub(crate) fn delete(&self, target: &str) -> Ask {
        self.ask(Method::DELETE, target)
    }

    pub(crate) fn put(&self, target: &str, body: impl Into<Bytes>) -> Ask {
        self.ask(Method::PUT, target).bytes(body)
    }

    pub(crate) fn patch(&self, target: &str, body: impl Into<Bytes>) -> Ask {
        self.ask(Method::PATCH, target).bytes(body)
    }

    /// Begins an upload; returns the `Location` to go on with.
    pub(crate) async fn begin_upload(&self, name: &str) -> String {
        self.post(&format!("/v2/{name}/blobs/uploads/")).expect(202).await.location()
    }

    /// Pushes a blob in one request; returns its digest.
    pub(crate) async fn push_blob(&self, name: &str, bytes: &Bytes) -> String {
        let digest = sha256(bytes);
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.ask(Method::POST, &target).bytes(bytes.clone()).expect(201).await;
        digest
    }

    /// Pushes a manifest under a tag or digest, with the type it names itself.
    pub(crate) async fn push_manifest(
        &self,
        name: &str,
        reference: &str,
        manifest: &Bytes,
    ) -> Answer {
        let parsed: Value = serde_json::from_slice(manifest).expect("a manifest is JSON");
        let media_type = parsed["mediaType"].as_str().expect("it names its type").to_owned();
        let target = format!("/v2/{name}/manifests/{reference}");
        let put = self.put(&target, manifest.clone()).header("content-type", &media_type);
        put.expect(201).await
    }

    /// The bytes of a blob, which must be there.
    pub(crate) async fn pull_blob(&self, name: &str, digest: &str) -> Bytes {
        self.get(&format!("/v2/{name}/blobs/{digest}")).expect(200).await.body
    }

    /// The status of a `HEAD`.
    pub(crate) async fn status_of(&self, target: &str) -> u16 {
        self.head(target).send().await.status
    }
}

impl Ask {
    /// Adds a header; the same name may come twice.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.line = format!("{} {name}: {value};", self.line);
        self.request = self.request.header(name, value);
        self
    }

    /// A body of known length.
    pub(crate) fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.request = self.request.body(body.into());
        self
    }

    /// A body whose length is not announced, in pieces.
    pub(crate) fn stream(mut self, pieces: Vec<Bytes>) -> Self {
        let pieces = pieces.into_iter().map(Ok::<_, std::io::Error>);
        self.request = self.request.body(reqwest::Body::wrap_stream(stream::iter(pieces)));
        self
    }

    /// Sends it and reads the whole answer, or says at which of the two it failed.
    pub(crate) async fn attempt(self) -> reqwest::Result<Answer> {
        let Self { request, line } = self;
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { line, status, headers, body: response.bytes().await? })
    }

    /// Sends it; the answer must come whole.
    pub(crate) async fn send(self) -> Answer {
        let line = self.line.clone();
        match self.attempt().await {
            Ok(answer) => answer,
            Err(error) => panic!("{line}: {error:?}"),
        }
    }

    /// Sends it; the answer must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> impl Future<Output = Answer> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.send().await;
            assert!(answer.status == status, "{caller}: expected {status} to {answer:#?}");
            answer
        }
    }

    /// Sends it; the answer must be an error of the specification's form.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> impl Future<Output = Answer> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.send().await;
            let problem = answer.error_problem(status, code);
            assert!(problem.is_none(), "{caller}: {} {answer:#?}", problem.unwrap_or_default());
            answer
        }
    }
}

impl Answer {
    /// A header that must be there once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let (value, second) = (values.next(), values.next());
        let value = value.unwrap_or_else(|| panic!("{name} is missing from {self:#?}"));
        assert!(second.is_none(), "{name} is there twice in {self:#?}");
        value.to_str().expect("a header in ASCII")
    }

    /// Every value of a header.
    pub(crate) fn header_all(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().expect("a header in ASCII")).collect()
    }

    #[track_caller]
    pub(crate) fn location(&self) -> String {
        self.header("location").to_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {self:#?}"),
        }
    }

    /// The target of `Link: <…>; rel="next"`, if there is one.
    pub(crate) fn next_page(&self) -> Option<String> {
        self.headers.get("link")?;
        let link = self.header("link");
        let target = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
        Some(target.unwrap_or_else(|| panic!("a link is <…>; rel=\"next\": {link}")).to_owned())
    }

    fn error_problem(&self, status: u16, code: &str) -> Option<String> {
        if self.status != status {
            return Some(format!("expected {status}"));
        }
        if self.header_all("content-type") != ["application/json"] {
            return Some("an error is application/json".to_owned());
        }
        if self.line.starts_with("HEAD") {
            return None;
        }
        let body = self.json();
        let errors = body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let well_formed = |error: &Value| {
            error["code"] == code && error["message"].as_str().is_some_and(|text| !text.is_empty())
        };
        let good = !errors.is_empty() && errors.iter().all(well_formed);
        (!good).then(|| format!("expected the code {code} and a message"))
    }
}

/// `target` with one more query parameter.
pub(crate) fn with_query(target: &str, parameter: &str) -> String {
    let separator = if target.contains('?') { '&' } else { '?' };
    format!("{target}{separator}{parameter}")
}
