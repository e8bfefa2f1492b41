//! What a URL path means. Pure: no request, no registry.
//!
//! Repository names contain slashes, and any component of a name may be called `blobs` or `tags`; so a
//! path is understood from its end.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::oci::{
    Digest, InvalidDigest, InvalidName, InvalidReference, InvalidUploadId, Reference,
    RepositoryName, UploadPosition,
};

/// The resource that a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: is this a registry? (end-1)
    Ping,
    /// `/v2/_catalog`: all repositories.
    Catalog,
    /// `/v2/<name>/tags/list` (end-8).
    Tags(RepositoryName),
    /// `/v2/<name>/manifests/<reference>` (end-3, 7, 9).
    Manifest(RepositoryName, Reference),
    /// `/v2/<name>/blobs/<digest>` (end-2, 10).
    Blob(RepositoryName, Digest),
    /// `/v2/<name>/blobs/uploads/`: where uploads begin (end-4, 11).
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<session>` (end-5, 6, 13, 14).
    Upload(RepositoryName, UploadPosition),
    /// `/v2/<name>/referrers/<digest>` (end-12).
    Referrers(RepositoryName, Digest),
}

/// Why a path names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    /// It has no such form.
    #[error("no resource of this registry has such a path")]
    Unknown,
    /// The repository name in it is malformed.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The tag or digest of a manifest in it is malformed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The digest of a blob in it is malformed.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// The upload session in it was not issued here.
    #[error(transparent)]
    Upload(#[from] InvalidUploadId),
}

impl Route {
    /// Parses the path of a URL, without its query. Components may be percent-encoded.
    ///
    /// # Errors
    /// [`InvalidRoute`].
    pub fn parse(path: &str) -> Result<Self, InvalidRoute> {
        let rest = path.strip_prefix("/v2").ok_or(InvalidRoute::Unknown)?;
        if matches!(rest, "" | "/") {
            return Ok(Self::Ping);
        }
        let rest = rest.strip_prefix('/').ok_or(InvalidRoute::Unknown)?;
        let Some((rest, last)) = rest.rsplit_once('/') else {
            return if decoded(rest)? == "_catalog" {
                Ok(Self::Catalog)
            } else {
                Err(InvalidRoute::Unknown)
            };
        };
        let (name, kind) = rest.rsplit_once('/').unwrap_or(("", rest));
        match (&*decoded(kind)?, &*decoded(last)?) {
            ("tags", "list") => Ok(Self::Tags(repository(name)?)),
            ("blobs", "uploads") => Ok(Self::Uploads(repository(name)?)),
            ("blobs", digest) => Ok(Self::Blob(repository(name)?, digest.parse()?)),
            ("manifests", reference) => Ok(Self::Manifest(repository(name)?, reference.parse()?)),
            ("referrers", digest) => Ok(Self::Referrers(repository(name)?, digest.parse()?)),
            ("uploads", session) => Self::below_uploads(name, session),
            _ => Err(InvalidRoute::Unknown),
        }
    }

    /// What `<name>/blobs` and an upload session name; without a session, where uploads begin.
    fn below_uploads(blobs: &str, session: &str) -> Result<Self, InvalidRoute> {
        let (name, kind) = blobs.rsplit_once('/').unwrap_or(("", blobs));
        if decoded(kind)? != "blobs" {
            return Err(InvalidRoute::Unknown);
        }
        let name = repository(name)?;
        if session.is_empty() {
            return Ok(Self::Uploads(name));
        }
        let position = UploadPosition::parse(session, &name)?;
        Ok(Self::Upload(name, position))
    }

    /// The methods that mean something here, as the `Allow` header lists them.
    #[must_use]
    pub const fn allowed(&self) -> &'static str {
        match self {
            Self::Ping | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }

    /// A name for metrics and logs; bounded.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Catalog => "catalog",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) => "uploads",
            Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
        }
    }
}

fn repository(name: &str) -> Result<RepositoryName, InvalidRoute> {
    Ok(decoded(name)?.parse()?)
}

/// What a part of the path means. A slash that is encoded parts nothing, because this comes last.
fn decoded(part: &str) -> Result<Cow<'_, str>, InvalidRoute> {
    // Hardly any client encodes what needs no encoding.
    if part.contains('%') {
        percent_decode_str(part).decode_utf8().map_err(|_not_utf8| InvalidRoute::Unknown)
    } else {
        Ok(Cow::Borrowed(part))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn paths_are_understood_from_their_end() {
        let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
        let tag = |text: &str| Reference::Tag(text.parse().unwrap());
        let cases = [
            ("/v2".to_owned(), Route::Ping),
            ("/v2/".to_owned(), Route::Ping),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            ("/v2/a/tags/list".to_owned(), Route::Tags(name("a"))),
            ("/v2/tags/list/tags/list".to_owned(), Route::Tags(name("tags/list"))),
            ("/v2/a/b/manifests/v1".to_owned(), Route::Manifest(name("a/b"), tag("v1"))),
            (
                "/v2/blobs/uploads/manifests/list".to_owned(),
                Route::Manifest(name("blobs/uploads"), tag("list")),
            ),
            (format!("/v2/a/blobs/sha256:{HEX}"), Route::Blob(name("a"), digest)),
            (format!("/v2/a/blobs/sha256%3A{HEX}"), Route::Blob(name("a"), digest)),
            ("/v2/a%2Fb/t%61gs/list".to_owned(), Route::Tags(name("a/b"))),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads".to_owned(), Route::Uploads(name("a"))),
            (format!("/v2/a/referrers/sha256:{HEX}"), Route::Referrers(name("a"), digest)),
        ];
        for (path, route) in cases {
            assert_eq!(Route::parse(&path), Ok(route), "{path}");
        }
    }

    #[test]
    fn what_is_malformed_is_named() {
        assert!(matches!(Route::parse("/v2/A/tags/list"), Err(InvalidRoute::Name(_))));
        assert!(matches!(Route::parse("/v2/a%2Fb%20/tags/list"), Err(InvalidRoute::Name(_))));
        assert!(matches!(Route::parse("/v2/a/blobs/sha256:bad"), Err(InvalidRoute::Digest(_))));
        assert!(matches!(Route::parse("/v2/a/manifests/.x"), Err(InvalidRoute::Reference(_))));
        assert!(matches!(Route::parse("/v2/a/blobs/uploads/x"), Err(InvalidRoute::Upload(_))));
        let unknown = [
            "",
            "/",
            "/v1/",
            "/v2x",
            "/v2/a",
            "/v2//_catalog",
            "/v2/a/%ff/tags/list",
            "/v2/a/tags%2Flist",
            "/v2/a/blob/uploads/",
        ];
        for unknown in unknown {
            assert_eq!(Route::parse(unknown), Err(InvalidRoute::Unknown), "{unknown}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_parsed_without_panic(path in "/v2/\\PC{0,60}") {
            let _ = Route::parse(&path);
        }
    }
}
