//! Finding out what an image consists of: from its name through indexes to blobs.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    daemon::Daemon,
    download::{self, Blob},
    error::Error,
    image::Image,
    listing::{Child, Listing},
    platform::Platform,
    repository::Repository,
};
use crate::oci::{Digest, InvalidManifest, Reference};

/// Most indexes above a manifest. Real ones have one, or two where indexes were put together.
const DEPTH_MAX: usize = 4;

/// Most manifests of one image. The largest real indexes have some tens, each with an attestation.
const MANIFESTS_MAX: usize = 1000;

/// What is to be pulled of an image; its manifests have been.
#[derive(Debug)]
pub(super) struct Plan {
    /// Every blob once, in the order of the manifests.
    pub(super) blobs: Vec<Blob>,
    /// Why this is not everything that was asked for.
    pub(super) problems: Vec<ImageError>,
}

impl Plan {
    /// Length of the blobs together, as far as the manifests say.
    pub(super) fn size_bytes(&self) -> u64 {
        let sizes = self.blobs.iter().filter_map(|blob| blob.size_bytes);
        sizes.fold(0, u64::saturating_add)
    }
}

/// An image that was asked for on platforms for which it is not made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not made for {}; it is made for {}", list(missing), list(there))]
pub(super) struct MissingPlatforms {
    missing: Vec<Platform>,
    there: Vec<Platform>,
}

/// Why an image cannot be warmed, or not entirely.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    /// A manifest could not be pulled.
    #[error("manifest {reference}")]
    Manifest {
        /// Its tag or digest.
        reference: Reference,
        /// Why not.
        source: Error,
    },
    /// A manifest cannot be understood.
    #[error("manifest {reference}")]
    Invalid {
        /// Its tag or digest.
        reference: Reference,
        /// Why not.
        source: InvalidManifest,
    },
    /// A blob could not be pulled.
    #[error("blob {digest}")]
    Blob {
        /// Its digest.
        digest: Digest,
        /// Why not; shared by all images that have it.
        source: Arc<Error>,
    },
    /// Indexes lie in indexes without end.
    #[error("its indexes are more than {DEPTH_MAX} deep")]
    TooDeep,
    /// There are too many manifests.
    #[error("it has more than {MANIFESTS_MAX} manifests")]
    TooMany,
    /// Some platforms are missing.
    #[error(transparent)]
    Platforms(#[from] MissingPlatforms),
}

/// Pulls the manifests of `image` for the platforms `wanted`, for all if none is named, and lists their blobs.
/// What fails is among the problems, and the rest goes on.
pub(super) async fn plan(daemon: &Daemon, image: &Image, wanted: &[Platform]) -> Plan {
    let mut walk = Walk {
        daemon,
        repository: &image.repository,
        choice: Choice::new(wanted),
        pending: vec![Pending { reference: image.reference.clone(), depth: 0, made_for: None }],
        seen: HashSet::new(),
        blobs: HashMap::new(),
    };
    let mut problems = Vec::new();
    while let Some(pending) = walk.pending.pop() {
        problems.extend(walk.step(pending).await.err());
    }
    let mut blobs: Vec<(usize, Blob)> = walk.blobs.into_values().collect();
    blobs.sort_unstable_by_key(|&(place, _)| place);
    problems.extend(walk.choice.missing().map(ImageError::from));
    Plan { blobs: blobs.into_iter().map(|(_, blob)| blob).collect(), problems }
}

/// A manifest that is still to be pulled.
struct Pending {
    reference: Reference,
    /// How many indexes are above it.
    depth: usize,
    /// What it is made for, if the index above says so.
    made_for: Option<Platform>,
}

struct Walk<'a> {
    daemon: &'a Daemon,
    repository: &'a Repository,
    choice: Choice<'a>,
    pending: Vec<Pending>,
    /// Manifests that were pending once. Two indexes may share one.
    seen: HashSet<Digest>,
    /// The blobs, each with its place in the order.
    blobs: HashMap<Digest, (usize, Blob)>,
}

impl Walk<'_> {
    async fn step(&mut self, pending: Pending) -> Result<(), ImageError> {
        let reference = &pending.reference;
        let failed = |source| ImageError::Manifest { reference: reference.clone(), source };
        let body = download::manifest(self.daemon, self.repository, reference).await;
        let body = body.map_err(failed)?;
        let invalid = |source| ImageError::Invalid { reference: reference.clone(), source };
        match Listing::read(&body).map_err(invalid)? {
            Listing::Index(children) => self.add_children(children, pending.depth + 1),
            Listing::Image { blobs, config } => {
                if pending.made_for.is_some() || self.is_wanted(config).await? {
                    self.add_blobs(blobs);
                }
                Ok(())
            }
        }
    }

    fn add_children(&mut self, children: Vec<Child>, depth: usize) -> Result<(), ImageError> {
        if depth > DEPTH_MAX {
            return Err(ImageError::TooDeep);
        }
        // The last one is taken up first.
        for Child { digest, platform } in children.into_iter().rev() {
            let chosen = platform.as_ref().is_none_or(|platform| self.choice.offer(platform));
            if chosen && self.seen.insert(digest) {
                if self.seen.len() > MANIFESTS_MAX {
                    return Err(ImageError::TooMany);
                }
                let reference = Reference::Digest(digest);
                self.pending.push(Pending { reference, depth, made_for: platform });
            }
        }
        Ok(())
    }

    /// Whether an image is wanted that no index describes. Its configuration says what it is made for; other
    /// artifacts are made for everything.
    async fn is_wanted(&mut self, config: Option<Digest>) -> Result<bool, ImageError> {
        let Some(digest) = config.filter(|_| self.choice.is_restricted()) else { return Ok(true) };
        let body = download::configuration(self.daemon, self.repository, digest).await;
        let failed = |source| ImageError::Blob { digest, source: Arc::new(source) };
        let body = body.map_err(failed)?;
        let platform = serde_json::from_slice::<Platform>(&body).ok().filter(Platform::is_known);
        Ok(platform.is_none_or(|platform| self.choice.offer(&platform)))
    }

    fn add_blobs(&mut self, blobs: Vec<Blob>) {
        for blob in blobs {
            let place = self.blobs.len();
            self.blobs.entry(blob.digest).or_insert((place, blob));
        }
    }
}

/// Which platforms are wanted, and what was met.
struct Choice<'a> {
    wanted: &'a [Platform],
    there: BTreeSet<Platform>,
}

impl<'a> Choice<'a> {
    fn new(wanted: &'a [Platform]) -> Self {
        Self { wanted, there: BTreeSet::new() }
    }

    fn is_restricted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether content for `platform` is wanted; notes that it is there.
    fn offer(&mut self, platform: &Platform) -> bool {
        self.there.insert(platform.clone());
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted.includes(platform))
    }

    /// What was not met. Where nothing says what it is made for, nothing is missing.
    fn missing(self) -> Option<MissingPlatforms> {
        let Self { wanted, there } = self;
        let is_missing = |wanted: &&Platform| !there.iter().any(|there| wanted.includes(there));
        let missing: Vec<Platform> = wanted.iter().filter(is_missing).cloned().collect();
        let is_complete = missing.is_empty() || there.is_empty();
        let there = there.into_iter().filter(Platform::is_known).collect();
        (!is_complete).then_some(MissingPlatforms { missing, there })
    }
}

fn list(platforms: &[Platform]) -> String {
    let words: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platforms(texts: &[&str]) -> Vec<Platform> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn without_a_wish_every_platform_is_chosen() {
        let mut choice = Choice::new(&[]);
        assert!(platforms(&["linux/amd64", "windows/arm64"]).iter().all(|p| choice.offer(p)));
        assert_eq!(choice.missing(), None);
    }

    #[test]
    fn what_is_missing_is_told_beside_what_is_there() {
        let wanted = platforms(&["linux/amd64", "linux/s390x"]);
        let mut choice = Choice::new(&wanted);
        let offered = platforms(&["linux/arm64/v8", "linux/amd64", "unknown/unknown"]);
        let chosen: Vec<bool> = offered.iter().map(|p| choice.offer(p)).collect();
        assert_eq!(chosen, [false, true, false]);
        let text = choice.missing().unwrap().to_string();
        assert_eq!(text, "not made for linux/s390x; it is made for linux/amd64, linux/arm64/v8");
    }

    #[test]
    fn an_artifact_for_no_platform_misses_none() {
        assert_eq!(Choice::new(&platforms(&["linux/amd64"])).missing(), None);
    }
}
