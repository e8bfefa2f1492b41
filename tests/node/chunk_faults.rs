//! When the bucket is slow, fails or lies, and clients stop reading: what is read through chunks is right or an error,
//! and everything else goes on.

mod stopped;

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use sha2::Digest as _;

use crate::{
    content::{pattern, sha256, small_index},
    node::{Backend, TestNode},
    raw::eventually,
    s3_server::{Action, Injection},
};

const MIB: usize = 1 << 20;

/// Nothing that does not wait for the fault takes longer, however busy the machine is.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Nothing at all takes longer.
const BOUND: Duration = Duration::from_secs(40);

/// A blob that a node has, and which it has never read.
struct Blob {
    bytes: Bytes,
    digest: String,
}

impl Blob {
    fn path(&self) -> String {
        format!("/v2/a/blobs/{}", self.digest)
    }

    /// How often its bytes were asked of the bucket since the last call.
    fn times_asked(&self, node: &TestNode) -> usize {
        let key = format!("{}/data", &self.digest["sha256:".len()..]);
        let requests = node.s3().take_requests();
        requests.iter().filter(|line| line.starts_with("GET ") && line.ends_with(&key)).count()
    }

    /// Pulls it with `client`. Bytes that are not its own, and a clean end before its end, fail the test.
    async fn pull(&self, node: &TestNode, client: &reqwest::Client) -> Outcome {
        let request = client.get(format!("{}{}", node.url(), self.path()));
        answered(request, (self.bytes.clone(), &self.digest)).await
    }

    /// The same of a part.
    async fn pull_part(&self, node: &TestNode, part: Range<usize>) -> Outcome {
        let request = node.http().get(format!("{}{}", node.url(), self.path()));
        let range = format!("bytes={}-{}", part.start, part.end - 1);
        let expected = self.bytes.slice(part);
        let digest = sha256(&expected);
        answered(request.header("range", range), (expected, &digest)).await
    }
}

async fn answered(request: reqwest::RequestBuilder, expected: (Bytes, &str)) -> Outcome {
    let shown = format!("{request:?}");
    let outcome = tokio::time::timeout(BOUND, outcome(request, expected)).await;
    outcome.unwrap_or_else(|_| panic!("neither bytes nor an error: {shown}"))
}

/// What comes of a request that is to be answered with these bytes, of this digest.
async fn outcome(request: reqwest::RequestBuilder, (bytes, digest): (Bytes, &str)) -> Outcome {
    let answer = request.send().await.expect("an answer, whatever it is");
    let status = answer.status().as_u16();
    if !answer.status().is_success() {
        let retry_after = answer.headers().contains_key("retry-after");
        let body: serde_json::Value = answer.json().await.expect("an error is JSON");
        let code = body["errors"][0]["code"].as_str().expect("an error has a code").to_owned();
        return Outcome::Refused { status, code, retry_after };
    }
    let mut check = Check::new(&bytes);
    let mut body = answer.bytes_stream();
    while let Some(next) = body.next().await {
        match next {
            Ok(next) => check.take(&next),
            Err(_broken_off) => return Outcome::BrokenOff,
        }
    }
    check.end(digest);
    Outcome::Whole
}

/// What came of a pull, if not bytes that are wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Refused { status: u16, code: String, retry_after: bool },
    BrokenOff,
}

impl Outcome {
    /// What a bucket that does not answer amounts to.
    fn unavailable() -> Self {
        Self::Refused { status: 503, code: "UNAVAILABLE".to_owned(), retry_after: true }
    }
}

/// Bytes that come, compared with those that should.
struct Check<'b> {
    expected: &'b Bytes,
    received: usize,
    hash: sha2::Sha256,
}

impl<'b> Check<'b> {
    fn new(expected: &'b Bytes) -> Self {
        Self { expected, received: 0, hash: sha2::Sha256::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        let end = self.received + bytes.len();
        let expected = self.expected.get(self.received..end);
        assert!(expected == Some(bytes), "other bytes from {} to {end}", self.received);
        self.received = end;
        self.hash.update(bytes);
    }

    /// That it was everything, which has this digest.
    fn end(self, digest: &str) {
        assert_eq!(self.received, self.expected.len(), "a clean end before the end");
        let hash = self.hash.finalize();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format!("sha256:{hex}"), digest, "{} bytes", self.received);
    }
}

/// A node with blobs and a manifest, none of which it has read.
async fn node_with(
    blobs: impl IntoIterator<Item = Bytes>,
    settings: &str,
) -> (TestNode, Vec<Blob>) {
    let mut node = TestNode::start(Backend::S3, settings).await;
    let mut pushed = Vec::new();
    for bytes in blobs {
        let digest = node.push_blob("a", &bytes).await;
        pushed.push(Blob { bytes, digest });
    }
    node.push_manifest("a", "v1", &small_index("x")).await;
    node.restart().await;
    node.s3().take_requests();
    (node, pushed)
}

/// That health and manifests are answered.
async fn is_responsive(node: &TestNode) {
    let manifest = small_index("x");
    let readiness = format!("{}/readyz", node.admin_url());
    let by_digest = format!("/v2/a/manifests/{}", sha256(&manifest));
    for (target, expected) in [
        (readiness.as_str(), &Bytes::from_static(b"ready\n")),
        ("/v2/a/manifests/v1", &manifest),
        (&by_digest, &manifest),
    ] {
        let answer = tokio::time::timeout(AT_ONCE, node.get(target).expect(200)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{target} is not answered in time"));
        assert_eq!(answer.body, expected, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_bucket_is_asked_once_for_all_and_holds_up_nothing_else() {
    let (node, blobs) = node_with([pattern(20 * MIB, 1)], "cache: {memory: 64MiB}").await;
    node.s3().inject(Injection::new(Action::Delay(Duration::from_secs(2))).on("/data"));
    let pulls = join_all((0..16).map(|_| blobs[0].pull(&node, node.http())));
    let (pulled, ()) = tokio::join!(pulls, async {
        for _ in 0..3 {
            is_responsive(&node).await;
        }
    });
    assert_eq!(pulled, vec![Outcome::Whole; 16]);
    // The first of them brings eight chunks.
    assert!((2..=13).contains(&blobs[0].times_asked(&node)));
}

/// Waits until a blob comes whole again. What was fetched ahead of somebody while the bucket failed may fail only now,
/// and whoever waits for it then hears of that; but nothing of it is kept.
async fn recovers(node: &TestNode, blob: &Blob) {
    let what = format!("{} bytes come whole again", blob.bytes.len());
    eventually(&what, async || {
        (blob.pull(node, node.http()).await == Outcome::Whole).then_some(())
    })
    .await;
}

/// Twenty blobs, two of them in large chunks.
fn twenty_blobs() -> impl Iterator<Item = Bytes> {
    let all = pattern(66 * MIB, 1);
    (0..20).map(move |number| {
        let length = if number % 10 == 4 { 65 * MIB + number } else { 250_000 * (number + 1) };
        all.slice(number..number + length)
    })
}

/// Has the bucket fail in four ways, each for one of twenty requests for bytes of blobs.
fn fail_one_in_five(node: &TestNode) {
    let ways = [
        Action::Refuse(500, "InternalError"),
        Action::SlowDown,
        Action::Reset,
        Action::CutBody(200_000),
    ];
    for (number, action) in ways.into_iter().enumerate() {
        // Of what those before it have left.
        let one_in = 20 - number;
        node.s3().inject(Injection::new(action).on("/data").one_in(one_in, 7 + number as u64));
    }
}

async fn pull_each(node: &TestNode, blobs: &[Blob]) -> Vec<Outcome> {
    let pulls = stream::iter(blobs).map(|blob| blob.pull(node, node.http()));
    pulls.buffered(6).collect().await
}

async fn pulls_while_the_bucket_fails(settings: &str) -> Vec<Outcome> {
    let (node, blobs) = node_with(twenty_blobs(), settings).await;
    is_responsive(&node).await;
    fail_one_in_five(&node);
    let (pulled, ()) = tokio::join!(pull_each(&node, &blobs), is_responsive(&node));
    node.s3().heal();
    join_all(blobs.iter().map(|blob| recovers(&node, blob))).await;
    pulled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_blobs_come_whole_from_a_bucket_that_fails_at_times() {
    let pulled = pulls_while_the_bucket_fails("").await;
    let whole = pulled.iter().filter(|outcome| **outcome == Outcome::Whole).count();
    assert!(whole >= 18, "{pulled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_for_good_is_an_error_and_never_a_part() {
    let pulled = pulls_while_the_bucket_fails("storage: {s3: {attempts: 1}}").await;
    let good = [Outcome::Whole, Outcome::BrokenOff, Outcome::unavailable()];
    assert!(pulled.iter().all(|outcome| good.contains(outcome)), "{pulled:?}");
    assert!(pulled.iter().any(|outcome| *outcome != Outcome::Whole), "{pulled:?}");
}

/// What clients that nobody came before get of a blob and of two parts of it, at the same time, and one that comes later
/// of a part, from a bucket that does `action` with all requests for its bytes but the first few; the node has to be as
/// good as new afterwards.
async fn pulls_while(
    action: Action,
    skip: usize,
    (node, blob): (&TestNode, &Blob),
) -> [Outcome; 4] {
    node.s3().inject(Injection::new(action).on("/data").skip(skip));
    let part = || blob.pull_part(node, 3 * MIB - 7..5 * MIB);
    let beginning = blob.pull_part(node, 0..MIB);
    let (beginning, whole, first) = tokio::join!(beginning, blob.pull(node, node.http()), part());
    let outcomes = [beginning, whole, first, part().await];
    node.s3().heal();
    recovers(node, blob).await;
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_sends_something_else_than_was_asked_for_is_never_believed() {
    let mib = MIB as u64;
    let lies = [
        Action::CutBody(0),
        Action::CutBody(1),
        Action::CutBody(mib),
        Action::ShortBody(0),
        Action::ShortBody(mib - 1),
        Action::ShortRange(1),
        Action::ShortRange(mib - 1),
        Action::FlipBit(0),
        Action::FlipBit(mib - 1),
        Action::Range(Some((0, 4 * mib - 1))),
        Action::Range(Some((1, 4 * mib))),
    ];
    let nonsense = Outcome::Refused { status: 500, code: "UNKNOWN".to_owned(), retry_after: false };
    let good = [Outcome::Whole, Outcome::BrokenOff, Outcome::unavailable(), nonsense];
    for (length, first) in [(6 * MIB + 7, 0), (6 * MIB + 7, 1), (65 * MIB, 1)] {
        let (mut node, blobs) = node_with([pattern(length, 1)], "").await;
        for lie in &lies {
            let pulled = pulls_while(lie.clone(), first, (&node, &blobs[0])).await;
            let is_good = pulled.iter().all(|outcome| good.contains(outcome));
            assert!(is_good, "{lie:?} from request {first} of {length} bytes: {pulled:?}");
            node.restart().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_sends_the_whole_object_instead_of_a_range_is_as_good() {
    for length in [6 * MIB + 7, 65 * MIB] {
        let (node, blobs) = node_with([pattern(length, 1)], "").await;
        let pulled = pulls_while(Action::Range(None), 0, (&node, &blobs[0])).await;
        assert_eq!(pulled, [const { Outcome::Whole }; 4], "{length}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_what_somebody_else_had_begun_to_fetch_asks_once_more_if_that_fails() {
    let (node, blobs) = node_with([pattern(70 * MIB, 1)], "storage: {s3: {attempts: 1}}").await;
    let begun = async || {
        let requests = node.s3().take_requests();
        requests.iter().any(|line| line.ends_with("/table")).then_some(())
    };
    // The second comes while the table is waited for. Then the bytes are refused, once; before that, their number was
    // asked for.
    node.s3().inject(Injection::new(Action::Delay(Duration::from_secs(1))).on("/table"));
    node.s3().inject(Injection::new(Action::Reset).on("/data").skip(1).times(1));
    let pull = || blobs[0].pull_part(&node, 20 * MIB..21 * MIB);
    let (first, second) = tokio::join!(pull(), async {
        eventually("the first has asked", begun).await;
        pull().await
    });
    assert_eq!((first, second), (Outcome::unavailable(), Outcome::Whole));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_memory_is_served_while_the_bucket_is_unreachable() {
    let settings = "registry: {known_for: 1h}";
    let (node, blobs) = node_with([pattern(9 * MIB, 1)], settings).await;
    let pull = || blobs[0].pull(&node, node.http());
    assert_eq!(pull().await, Outcome::Whole);
    node.s3().go_away().await;
    for _ in 0..2 {
        assert_eq!(pull().await, Outcome::Whole);
        assert_eq!(blobs[0].pull_part(&node, MIB..5 * MIB).await, Outcome::Whole);
    }
    node.s3().come_back();
    is_responsive(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_memory_is_refused_while_the_bucket_is_unreachable() {
    let blobs = [9, 66].map(|length| pattern(length * MIB, 1));
    let (node, blobs) = node_with(blobs, "registry: {known_for: 1h}").await;
    // Of the second one, something is there.
    assert_eq!(blobs[1].pull_part(&node, 0..MIB).await, Outcome::Whole);
    node.s3().go_away().await;
    let refused = async {
        assert_eq!(blobs[0].pull(&node, node.http()).await, Outcome::unavailable());
        assert_eq!(blobs[1].pull(&node, node.http()).await, Outcome::BrokenOff);
        node.get("/v2/a/manifests/v1").refused(503, "UNAVAILABLE").await;
        let readiness = node.get(&format!("{}/readyz", node.admin_url()));
        assert_eq!(readiness.expect(503).await.body, "the storage fails\n");
    };
    tokio::time::timeout(AT_ONCE, refused).await.expect("a refusal takes no time");
    node.s3().come_back();
    is_responsive(&node).await;
    join_all(blobs.iter().map(|blob| recovers(&node, blob))).await;
}
