//! Which key holds what.
//!
//! Everything under `docker/registry/v2` is docker-registry's own storage layout, so that a tree written
//! by one is served by the other. Everything under `millpond/v1` is ours and can be rebuilt from it,
//! except unfinished uploads, which are nobody's truth yet.

use crate::oci::{Digest, RepositoryName, Tag, UploadId};

use super::Key;

const BLOBS: &str = "docker/registry/v2/blobs";
const REPOSITORIES: &str = "docker/registry/v2/repositories";
const UPLOADS: &str = "millpond/v1/uploads";
const REFERRERS: &str = "millpond/v1/referrers";
const CHUNKS: &str = "millpond/v1/chunks";

/// Folders of temporary files and journals that only storage drivers use.
pub(super) const UNFINISHED: &str = "millpond/v1/unfinished";

/// Name of the folder that makes its parent a repository.
pub const MANIFESTS_FOLDER: &str = "_manifests";

fn key(text: String) -> Key {
    text.parse().expect("validated names make valid keys")
}

/// The bytes of a blob; manifests are blobs as well.
#[must_use]
pub fn blob(digest: &Digest) -> Key {
    let hex = digest.hex();
    key(format!("{BLOBS}/{}/{}/{hex}/data", digest.algorithm(), &hex[..2]))
}

/// The folder of all repositories.
#[must_use]
pub fn repositories() -> Key {
    key(REPOSITORIES.to_owned())
}

/// The folder of one repository, or of repositories below that name.
#[must_use]
pub fn repository(name: &RepositoryName) -> Key {
    key(format!("{REPOSITORIES}/{name}"))
}

/// The link that makes a blob part of a repository. Its content is the digest under which the bytes are
/// stored, which docker-registry lets differ from the one in the path (sha512 alias of sha256).
#[must_use]
pub fn layer_link(name: &RepositoryName, digest: &Digest) -> Key {
    let (algorithm, hex) = (digest.algorithm(), digest.hex());
    key(format!("{REPOSITORIES}/{name}/_layers/{algorithm}/{hex}/link"))
}

/// The folder of a repository's manifests, by algorithm and hash.
#[must_use]
pub fn revisions(name: &RepositoryName) -> Key {
    key(format!("{REPOSITORIES}/{name}/_manifests/revisions"))
}

/// The link that makes a manifest part of a repository.
#[must_use]
pub fn revision_link(name: &RepositoryName, digest: &Digest) -> Key {
    revisions(name).join(format_args!("{}/{}/link", digest.algorithm(), digest.hex()))
}

/// The folder of a repository's tags.
#[must_use]
pub fn tags(name: &RepositoryName) -> Key {
    key(format!("{REPOSITORIES}/{name}/_manifests/tags"))
}

/// The folder of one tag.
#[must_use]
pub fn tag(name: &RepositoryName, tag: &Tag) -> Key {
    tags(name).join(tag)
}

/// What a tag points to: the digest of a manifest.
#[must_use]
pub fn tag_current(name: &RepositoryName, tag: &Tag) -> Key {
    // This one is made for each read of a tag.
    let (name, tag) = (name.as_str(), tag.as_str());
    Key::of_valid(&[REPOSITORIES, "/", name, "/_manifests/tags/", tag, "/current/link"])
}

/// The note that a tag has pointed to a manifest.
#[must_use]
pub fn tag_index(name: &RepositoryName, tag: &Tag, digest: &Digest) -> Key {
    tags(name).join(format_args!("{tag}/index/{}/{}/link", digest.algorithm(), digest.hex()))
}

/// The folder of all unfinished uploads, one folder each.
#[must_use]
pub fn uploads() -> Key {
    key(UPLOADS.to_owned())
}

/// The folder of one upload's pieces.
#[must_use]
pub fn upload(id: &UploadId) -> Key {
    key(format!("{UPLOADS}/{id}"))
}

/// One piece of an upload: the bytes from `offset` on. `nonce` keeps apart two processes that write the
/// same session at once.
#[must_use]
pub fn upload_piece(id: &UploadId, offset: u64, nonce: u64) -> Key {
    key(format!("{UPLOADS}/{id}/{offset:020}-{nonce:016x}"))
}

/// The offset at which a piece begins, from its name in the upload's folder.
#[must_use]
pub fn upload_piece_offset(piece: &str) -> Option<u64> {
    piece.split_once('-')?.0.parse().ok()
}

/// The note that an upload was cancelled.
#[must_use]
pub fn upload_cancelled(id: &UploadId) -> Key {
    key(format!("{UPLOADS}/{id}/{CANCELLED}"))
}

/// Name of the cancel note in the upload's folder.
pub const CANCELLED: &str = "cancelled";

/// What is known of the subjects of a repository's manifests.
#[must_use]
pub fn referrers(name: &RepositoryName) -> Key {
    key(format!("{REFERRERS}/{name}/_index.json"))
}

/// What the parts of a blob are held against.
#[must_use]
pub fn chunk_table(digest: &Digest) -> Key {
    let hex = digest.hex();
    key(format!("{CHUNKS}/{}/{}/{hex}/table", digest.algorithm(), &hex[..2]))
}

/// An object that is written, read and deleted to try a storage out.
#[must_use]
pub fn probe(nonce: u64) -> Key {
    key(format!("millpond/v1/probe-{nonce:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn paths_are_those_of_docker_registry() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let name: RepositoryName = "team/app".parse().unwrap();
        let tag: Tag = "v1".parse().unwrap();
        let repository = "docker/registry/v2/repositories/team/app";
        let cases = [
            (blob(&digest), format!("docker/registry/v2/blobs/sha256/e3/{hex}/data")),
            (layer_link(&name, &digest), format!("{repository}/_layers/sha256/{hex}/link")),
            (
                revision_link(&name, &digest),
                format!("{repository}/_manifests/revisions/sha256/{hex}/link"),
            ),
            (tag_current(&name, &tag), format!("{repository}/_manifests/tags/v1/current/link")),
            (
                tag_index(&name, &tag, &digest),
                format!("{repository}/_manifests/tags/v1/index/sha256/{hex}/link"),
            ),
        ];
        for (key, expected) in cases {
            assert_eq!(key.as_str(), expected);
        }
    }
}
