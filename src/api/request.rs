//! A request as handlers see it.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use http::{HeaderMap, Method, Request, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::{Api, body::RequestBody, error::Error, location::Locations, sendfile::FileLane};
use crate::{
    oci::{Digest, InvalidDigest, RepositoryName},
    registry::{Place, Repository},
    runtime::BodyStream,
};

/// One request, understood as far as every handler needs it.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) locations: Locations,
    /// The other registry that the client means, if it says so or came where only one can be meant.
    namespace: Option<String>,
    /// For files in the answer, if the connection takes them.
    pub(super) lane: Option<FileLane>,
    query: Vec<(String, String)>,
    body: RequestBody,
    body_timeout: Duration,
}

impl Call {
    /// `namespace` is the other registry that every name means where the request came in.
    pub(super) fn new(
        api: &Api,
        (peer, namespace): (SocketAddr, Option<&str>),
        request: Request<Incoming>,
    ) -> Self {
        let (mut parts, incoming) = request.into_parts();
        let query = parse_query(parts.uri.query().unwrap_or_default());
        let namespace = match query.iter().find(|(name, _)| name == "ns") {
            Some((_, asked)) => Some(asked.clone()),
            None => namespace.map(str::to_owned).or_else(|| api.namespace_of_host(&parts)),
        };
        let locations = Locations::of(&api.config, peer, &parts);
        Self {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            namespace,
            lane: parts.extensions.remove(),
            query,
            headers: parts.headers,
            locations,
            body: RequestBody::new(incoming, api.tasks.clone()),
            body_timeout: api.config.body_timeout,
        }
    }

    /// Where a name leads, for reading.
    pub(super) fn place(&self, api: &Api, name: &RepositoryName) -> Result<Place, Error> {
        Ok(api.registry.place(self.namespace.as_deref(), name)?)
    }

    /// The repository that a name leads to, for writing.
    pub(super) fn hosted(&self, api: &Api, name: &RepositoryName) -> Result<Repository, Error> {
        Ok(self.place(api, name)?.hosted()?)
    }

    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters(name).next()
    }

    /// Every value of a query parameter.
    pub(super) fn parameters(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The digest in a query parameter, if it is there.
    pub(super) fn digest_parameter(&self, name: &'static str) -> Result<Option<Digest>, Error> {
        let parse = |text: &str| {
            text.parse().map_err(|source: InvalidDigest| Error::Digest { what: name, source })
        };
        self.parameter(name).map(parse).transpose()
    }

    /// The page size `n`, if it is there.
    pub(super) fn page_size(&self) -> Result<Option<usize>, Error> {
        let parse = |text: &str| {
            let refuse = |_| Error::Query {
                name: "n",
                value: text.chars().take(40).collect(),
                accepted: "a whole number from 0 on",
            };
            usize::from_str(text).map_err(refuse)
        };
        self.parameter("n").map(parse).transpose()
    }

    /// A header's value, if it is there once and is text.
    pub(super) fn header(&self, name: &header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The announced length of the body, in bytes.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.header(&header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The body.
    pub(super) fn into_body(self) -> BodyStream {
        self.body.into_stream(self.body_timeout)
    }
}

/// Splits a query into its parameters. `+` stays what it is: digests and tags have no spaces, and media
/// types have plus signs that some clients do not encode.
fn parse_query(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(key), decode(value))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_may_repeat() {
        let query = parse_query("digest=sha256%3Aab&tag=a&tag=b&&flag&type=application/x+json");
        let expected = [
            ("digest", "sha256:ab"),
            ("tag", "a"),
            ("tag", "b"),
            ("flag", ""),
            ("type", "application/x+json"),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(query, expected);
    }
}
