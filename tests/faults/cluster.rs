//! A cluster of processes on one bucket, each known to the others by its relay alone.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use millpond::cluster::{NodeId, Status};
use reqwest::Client;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    bucket_files,
    content::{Blob, id},
    network::{Network, Number},
    ports::free_ports,
    process::Process,
    relay::Relay,
    s3_server::{Action, Injection, S3Server},
    storm::Storm,
};

/// Parts of the first blob that have come in the middle of a storm.
const BEFORE: usize = 3;

/// Parts that are on their way then, at least.
const COMING: usize = 3;

/// Bytes that have come of each of those.
const FREE_BYTES: u64 = 200_000;

/// What is counted of the bucket.
const STORAGE_ERRORS: &str = "millpond_storage_errors_total{";

/// Nothing that is waited for takes this long, whatever else the machine does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// From one look whether something has happened to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Storms take turns: in several at once, nodes that only wait for a processor would be taken for dead.
static TURN: Mutex<()> = Mutex::const_new(());

/// A cluster of processes on one bucket.
pub(crate) struct Cluster {
    turn: Option<MutexGuard<'static, ()>>,
    pub(crate) s3: S3Server,
    pub(crate) network: Network,
    seats: Vec<Seat>,
    pub(crate) http: Client,
}

/// A place for a node, which need not be there.
struct Seat {
    relay: Relay,
    listen: u16,
    api: u16,
    admin: u16,
    process: Option<Process>,
    /// What is between it and the bucket.
    storage: Option<Relay>,
}

/// What is special about a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traits {
    /// Whom it looks for; everybody, if that is not said.
    pub(crate) knows: Option<Vec<Number>>,
    /// Whether its key for the bucket is not the right one.
    pub(crate) has_wrong_key: bool,
    /// Whether all that it sends and receives goes by a narrow line.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Cluster {
    /// So many nodes that know each other, on a bucket with [`Blob::some`] and [`Blob::later`]. It is this test's turn.
    pub(crate) async fn of(count: usize) -> Self {
        Self::with(count, (0, Traits::default())).await
    }

    /// The same, of which this one is special.
    pub(crate) async fn with(count: usize, (special, traits): (Number, Traits)) -> Self {
        let mut cluster = Self::prepared(count).await;
        let all = cluster.all();
        for node in &all {
            let traits = if *node == special { traits.clone() } else { Traits::default() };
            cluster.start(*node, &traits).await;
        }
        cluster.agree(&all).await;
        cluster.take_turn().await;
        cluster
    }

    /// Places for so many nodes, on a bucket with the same.
    pub(crate) async fn prepared(count: usize) -> Self {
        let network = Network::default();
        let ports = free_ports(3 * count);
        let seats = ports.chunks_exact(3).enumerate().map(async |(number, ports)| {
            let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
            let askers: Vec<Number> = (0..count).filter(|asker| *asker != number).collect();
            let relay = Relay::to_node(&network, (number, address), &askers).await;
            let (listen, api, admin) = (ports[0], ports[1], ports[2]);
            Seat { relay, listen, api, admin, process: None, storage: None }
        });
        let seats = join_all(seats).await;
        // Only the first call in a process has an effect; the others agree with it.
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = Client::builder().no_proxy().build().expect("a client without TLS");
        let s3 = S3Server::start().await;
        bucket_files::put(&s3, &http).await;
        Self { turn: None, s3, network, seats, http }
    }

    /// Starts a node, for which the others wait if they know that it may come.
    pub(crate) async fn start(&mut self, node: Number, traits: &Traits) {
        let mut endpoint = self.s3.endpoint().to_owned();
        if let Some(bytes_per_second) = traits.bytes_per_second {
            self.network.limit(node, bytes_per_second);
            let address = endpoint["http://".len()..].parse().expect("an address");
            let storage = Relay::to_storage(&self.network, node, address).await;
            endpoint = format!("http://{}", storage.entrance(node));
            self.seats[node].storage = Some(storage);
        }
        let all = self.all();
        let known = traits.knows.as_ref().unwrap_or(&all).iter().filter(|known| **known != node);
        let place = |known: &Number| format!("'{}'", self.seats[*known].relay.entrance(node));
        let mut places: Vec<String> = known.map(place).collect();
        // Whoever knows nobody knows itself.
        places.push(format!("'{}'", self.seats[node].relay.address()));
        let seat = &self.seats[node];
        let config = format!(
            "{storage}\
             cluster: {{listen: '127.0.0.1:{listen}', advertise: '{advertise}', members: [{places}], \
             secret: a-secret-of-the-test-nodes, warm_up: 0s}}\n",
            storage = bucket_files::settings(&self.s3, &endpoint, traits.has_wrong_key),
            listen = seat.listen,
            advertise = seat.relay.address(),
            places = places.join(", "),
        );
        seat.relay.await_target(true);
        let process = Process::node((&self.network, node), (seat.api, seat.admin), &config);
        self.seats[node].process = Some(process);
    }

    /// Has other tests have their turn, because now is only waited.
    pub(crate) fn rest(&mut self) {
        self.turn = None;
    }

    /// Waits until it is this test's turn.
    pub(crate) async fn take_turn(&mut self) {
        self.turn = Some(TURN.lock().await);
    }

    /// Every place for a node.
    pub(crate) fn all(&self) -> Vec<Number> {
        (0..self.seats.len()).collect()
    }

    pub(crate) fn process(&mut self, node: Number) -> &mut Process {
        self.seats[node].process.as_mut().expect("it was started")
    }

    /// Where clients ask a node for something.
    pub(crate) fn url(&self, node: Number, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.seats[node].api)
    }

    /// How often nodes could not do something with the bucket.
    pub(crate) async fn storage_errors(&self) -> u64 {
        let count = async |seat: &Seat| {
            let url = format!("http://127.0.0.1:{}/metrics", seat.admin);
            let answer = self.http.get(url).send().await.expect("the node answers");
            let text = answer.text().await.expect("its metrics come");
            let lines = text.lines().filter(|line| line.starts_with(STORAGE_ERRORS));
            let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            counts.sum::<u64>()
        };
        join_all(self.seats.iter().map(count)).await.into_iter().sum()
    }

    /// What a node tells of the cluster; nothing if it does not answer.
    pub(crate) async fn status(&self, node: Number) -> Option<Status> {
        let url = format!("http://127.0.0.1:{}/cluster", self.seats[node].admin);
        let answer = self.http.get(url).send().await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    /// Waits until all of these own something as each of them sees it, and nobody else does.
    pub(crate) async fn agree(&self, nodes: &[Number]) {
        join_all(nodes.iter().map(|node| self.sees(*node, nodes))).await;
        for node in nodes {
            self.seats[*node].relay.await_target(false);
        }
    }

    /// Waits until none of these leaves another node alone because that did not answer.
    pub(crate) async fn forgive(&self, nodes: &[Number]) {
        let forgives = async |node: &Number| {
            let Some(status) = self.status(*node).await else { return false };
            status.nodes.iter().all(|node| node.breaker_seconds.is_none())
        };
        join_all(
            nodes.iter().map(|node| until("no node is left alone", async || forgives(node).await)),
        )
        .await;
    }

    /// Waits until these own something as a node sees it, and nobody else does.
    pub(crate) async fn sees(&self, node: Number, owners: &[Number]) {
        let expected: BTreeSet<NodeId> = owners.iter().map(|owner| id(*owner)).collect();
        let what = format!("node {node} sees that {owners:?} own something");
        until(&what, async || {
            let Some(status) = self.status(node).await else { return false };
            let owners = status.nodes.iter().filter(|node| node.share > 0.0);
            owners.map(|owner| owner.id).collect::<BTreeSet<_>>() == expected
        })
        .await;
    }

    /// Begins a storm through these nodes, and stops it in its middle: some parts of the first blob have come, and some
    /// are on their way until [`S3Server::release`].
    pub(crate) async fn half_a_storm(&self, nodes: &[Number], blobs: &[Blob]) -> Storm {
        let data = format!("{}/data", blobs[0].digits());
        let hold = Injection::new(Action::HoldBody(FREE_BYTES)).on(data).skip(BEFORE);
        self.s3.inject(hold);
        let storm = self.storm(nodes, blobs);
        let held = self.s3.until_held(COMING);
        tokio::time::timeout(PATIENCE, held).await.expect("the storm comes to its middle");
        storm
    }

    /// Panics unless the bucket was asked at most so often for the parts of each blob since this was asked last. Its chunk
    /// table may be read once by each node, where it cannot be asked of another one.
    ///
    /// On a machine with too much to do, a node that gets no processor for two seconds looks as if it was gone. So half
    /// of the parts may have been read once more.
    pub(crate) fn expect_reads(&self, blobs: &[Blob], most: impl Fn(&Blob) -> usize) {
        let tables_most = self.seats.len();
        for (blob, (parts, tables)) in blobs.iter().zip(self.take_reads(blobs)) {
            let (most, length) = (most(blob) + blob.parts().div_ceil(2), blob.bytes.len());
            assert!(parts <= most, "{length}: {parts} requests for parts, and {most} would do");
            assert!(tables <= tables_most, "{length}: {tables} requests for the table");
        }
    }

    /// How often the bucket was asked for bytes of a blob since this was asked last, and for its chunk table.
    fn take_reads(&self, blobs: &[Blob]) -> Vec<(usize, usize)> {
        let requests = self.s3.take_requests();
        let reads = |blob: &Blob| {
            let count = |end: &str| {
                let digits = blob.digits();
                let is_it = |line: &&String| {
                    line.starts_with("GET ") && line.contains(&digits) && line.ends_with(end)
                };
                requests.iter().filter(is_it).count()
            };
            (count("/data"), count("/table"))
        };
        blobs.iter().map(reads).collect()
    }
}

/// Waits until something has happened, and panics if it does not.
pub(crate) async fn until(what: &str, mut has_happened: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !has_happened().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("it does not come to this: {what}");
    }
}
