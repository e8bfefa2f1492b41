//! What is pulled.

use std::sync::LazyLock;

use bytes::Bytes;
use millpond::{
    cluster::{Item, Member, NodeId, Peer, View},
    oci::Digest,
};
use sha2::Digest as _;

use crate::network::Number;

const MIB: usize = 1 << 20;

/// Bytes of a chunk of a blob that is not large, which is as much as the bucket is asked for at once.
const CHUNK_BYTES: usize = MIB;

/// Up to this length a blob is one part.
const SHORT_BYTES: usize = 8 * MIB;

/// A blob of the repository [`Blob::REPOSITORY`].
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
}

impl Blob {
    pub(crate) const REPOSITORY: &str = "storm/image";

    /// Bytes that depend on their place and on `seed`.
    fn new(length: usize, seed: u64) -> Self {
        assert!(
            length <= CHUNK_BYTES || length > SHORT_BYTES,
            "its parts come by one request each"
        );
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; length];
        random.fill(&mut bytes);
        // By another implementation than the program's.
        let hash: Vec<String> =
            sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("sha256:{}", hash.concat()).parse().expect("a digest");
        Self { bytes: bytes.into(), digest }
    }

    /// A long blob with a chunk table, and some short ones.
    pub(crate) fn some() -> Vec<Self> {
        static SOME: LazyLock<Vec<Blob>> =
            LazyLock::new(|| Blob::of([10 * MIB, 1, 60_000, 700_000, MIB], 1));
        SOME.clone()
    }

    /// Others, for what comes afterwards.
    pub(crate) fn later() -> Vec<Self> {
        static LATER: LazyLock<Vec<Blob>> = LazyLock::new(|| Blob::of([9 * MIB, 500_000], 100));
        LATER.clone()
    }

    fn of<const COUNT: usize>(lengths: [usize; COUNT], seed: u64) -> Vec<Self> {
        lengths.into_iter().zip(seed..).map(|(length, seed)| Self::new(length, seed)).collect()
    }

    /// Where clients ask for it.
    pub(crate) fn path(&self) -> String {
        format!("/v2/{}/blobs/{}", Self::REPOSITORY, self.digest)
    }

    /// The digits of its digest.
    pub(crate) fn digits(&self) -> String {
        self.digest.to_string().split_once(':').expect("a digest has two parts").1.to_owned()
    }

    /// How many parts it is exchanged in, each of which costs the bucket one request.
    pub(crate) const fn parts(&self) -> usize {
        let length = self.bytes.len();
        if length > SHORT_BYTES { length.div_ceil(CHUNK_BYTES) } else { 1 }
    }

    /// Who owns each of its parts, and who comes after them.
    pub(crate) fn owners(&self, nodes: &[Number]) -> Vec<Vec<Number>> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let member = |node: &Number| Member { peer: Peer { id: id(*node), address }, weight: 1 };
        let view = View::new(nodes.iter().map(member).collect());
        let number = |peer: &Peer| number_of(peer.id);
        let owners =
            |part| view.owners(Item::part(&self.digest, part)).iter().map(number).collect();
        (0..self.parts() as u64).map(owners).collect()
    }

    /// How many of its parts a node owns.
    pub(crate) fn owned(&self, nodes: &[Number], node: Number) -> usize {
        self.owners(nodes).iter().filter(|owners| owners.first() == Some(&node)).count()
    }
}

/// The name of a node. It is not drawn, so that each run of a test has the same owners.
pub(crate) const fn id(node: Number) -> NodeId {
    NodeId::new(node as u128 + 1)
}

/// The node of this name.
pub(crate) const fn number_of(id: NodeId) -> Number {
    id.number() as Number - 1
}
