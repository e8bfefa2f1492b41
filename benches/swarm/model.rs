//! A storm: hosts that pull the same image at the same time, each through a node of its own. The nodes are the daemon's
//! own [`Exchange`]; time, network, storage and clients are made up.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use millpond::{
    cluster::{
        Item, Member, NodeId, Peer, View,
        exchange::{
            Action, Answer, AskId, Attempt, Counts, Exchange, Incoming, Limits, Moment, Need,
            Reply, Stock, Trouble,
        },
    },
    oci::{Algorithm, Digest},
};

use crate::network::{FlowId, Network};

/// Blobs that a client pulls at once.
const AT_ONCE: usize = 3;

/// Seconds within which clients begin.
const START: f64 = 0.01;

/// Chunks that are wanted ahead of a client.
const AHEAD: usize = 32;

/// What there is and what happens.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    pub(crate) hosts: usize,
    /// Bytes per second of each host, both ways.
    pub(crate) rate: f64,
    /// Bytes per second of the storage.
    pub(crate) origin_rate: f64,
    /// Lengths of the blobs of the image.
    pub(crate) blobs: Vec<u64>,
    /// Hosts with less, and how much less.
    pub(crate) slow: Vec<(usize, f64)>,
    /// Hosts whose node ends, and when.
    pub(crate) deaths: Vec<(usize, f64)>,
    /// The hosts that pull; all if there are none here.
    pub(crate) pullers: Vec<usize>,
    /// The first so many own things; all if 0.
    pub(crate) owners: usize,
    pub(crate) limits: Limits,
    pub(crate) seed: u64,
    /// Seconds a message takes.
    pub(crate) delay: f64,
    /// Seconds of a step.
    pub(crate) step: f64,
}

/// How it went.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// When each puller that lives had everything, in seconds, sorted.
    pub(crate) ends: Vec<f64>,
    /// Of those that are not slow.
    pub(crate) healthy: Vec<f64>,
    /// Pullers that were told that something cannot be had.
    pub(crate) failed: usize,
    /// Bytes from the storage for each byte of the image.
    pub(crate) origin: f64,
    /// Images that each node has sent.
    pub(crate) sent: Vec<f64>,
    /// Images that those have sent that did not pull.
    pub(crate) sent_idle: Vec<f64>,
    pub(crate) messages: u64,
    pub(crate) counts: Counts,
}

impl Outcome {
    /// The time by which this part of the pullers was ready.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.ends, part)
    }
}

pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A chunk of the image.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    item: Item,
    bytes: f64,
}

struct Blob {
    first: usize,
    chunks: usize,
}

struct Host {
    exchange: Exchange,
    is_alive: bool,
    is_puller: bool,
    has_failed: bool,
    /// Bytes of each chunk that are here.
    here: Vec<f64>,
    left: usize,
    /// For each blob: the first chunk that is not here, and the first that was not wanted.
    cursors: Vec<(usize, usize)>,
    next_blob: usize,
    open_blobs: Vec<usize>,
    end: Option<f64>,
    /// The deadline for which there is an event.
    deadline: Option<Moment>,
    attempts: HashMap<Attempt, Running>,
}

#[derive(Clone, Copy)]
enum Running {
    Asked(usize, AskId),
    Flowing(FlowId),
}

enum Event {
    Ask { attempt: Attempt, asker: usize, to: usize, ask: AskId, incoming: Incoming },
    Answer { attempt: Attempt, asker: usize, answer: Answer },
    Gone { at: usize, ask: AskId },
    Fetched { attempt: Attempt, at: usize },
    Tick(usize),
    Start(usize),
    Death(usize),
}

pub(crate) struct Model {
    storm: Storm,
    chunks: Vec<Chunk>,
    index: HashMap<Item, usize>,
    blobs: Vec<Blob>,
    hosts: Vec<Host>,
    network: Network,
    /// What each flow is for: the attempt at the receiver and the request at the sender.
    flows: HashMap<FlowId, (Attempt, Option<AskId>)>,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    waiting: HashMap<u64, Event>,
    next_event: u64,
    next_ask: u64,
    asks: HashMap<AskId, (usize, Attempt)>,
    now: f64,
    random: fastrand::Rng,
    messages: u64,
}

fn moment(seconds: f64) -> Moment {
    Duration::from_secs_f64(seconds)
}

impl Model {
    pub(crate) fn new(storm: Storm) -> Self {
        let mut chunks = Vec::new();
        let mut blobs = Vec::new();
        for (number, bytes) in storm.blobs.iter().enumerate() {
            let digest = Digest::of(Algorithm::Sha256, &[storm.seed as u8, number as u8]);
            let chunk_bytes: u64 = if *bytes >= 64 << 20 { 4 << 20 } else { 1 << 20 };
            let count = bytes.div_ceil(chunk_bytes) as usize;
            blobs.push(Blob { first: chunks.len(), chunks: count });
            chunks.extend((0..count as u64).map(|part| Chunk {
                item: Item::part(&digest, part),
                bytes: chunk_bytes.min(bytes - part * chunk_bytes) as f64,
            }));
        }
        let index = chunks.iter().enumerate().map(|(place, chunk)| (chunk.item, place)).collect();
        let mut random = fastrand::Rng::with_seed(storm.seed);
        let peers: Vec<Peer> = (0..storm.hosts).map(|host| peer(host, &mut random)).collect();
        let owners = if storm.owners == 0 { storm.hosts } else { storm.owners };
        let members = peers.iter().take(owners).map(|peer| Member { peer: *peer, weight: 1 });
        let view = Arc::new(View::new(members.collect()));
        let is_puller = |host| storm.pullers.is_empty() || storm.pullers.contains(&host);
        let hosts = peers.iter().enumerate().map(|(host, peer)| Host {
            exchange: Exchange::new(*peer, storm.limits, Arc::clone(&view)),
            is_alive: true,
            is_puller: is_puller(host),
            has_failed: false,
            here: vec![0.0; chunks.len()],
            left: chunks.len(),
            cursors: blobs.iter().map(|blob| (blob.first, blob.first)).collect(),
            next_blob: 0,
            open_blobs: Vec::new(),
            end: None,
            deadline: None,
            attempts: HashMap::new(),
        });
        let hosts: Vec<Host> = hosts.collect();
        let factor = |host: usize| {
            storm.slow.iter().find(|(slow, _)| *slow == host).map_or(1.0, |(_, factor)| *factor)
        };
        let mut up: Vec<f64> = (0..storm.hosts).map(|host| storm.rate * factor(host)).collect();
        let down = up.iter().copied().chain([0.0]).collect();
        up.push(storm.origin_rate);
        let mut model = Self {
            network: Network::new(up, down),
            chunks,
            index,
            blobs,
            hosts,
            flows: HashMap::new(),
            events: BinaryHeap::new(),
            waiting: HashMap::new(),
            next_event: 0,
            next_ask: 0,
            asks: HashMap::new(),
            now: 0.0,
            random,
            messages: 0,
            storm,
        };
        for host in 0..model.hosts.len() {
            let seconds = START * model.random.f64();
            model.at(seconds, Event::Start(host));
        }
        for (host, seconds) in model.storm.deaths.clone() {
            model.at(seconds, Event::Death(host));
        }
        model
    }

    /// Lets it happen, until everybody is ready or `most` seconds have passed.
    pub(crate) fn run(mut self, most: f64) -> Outcome {
        while self.now < most && self.hosts.iter().any(Host::is_waiting) {
            let end = self.now + self.storm.step;
            while let Some(Reverse((at, id))) = self.events.peek().copied() {
                if at.as_secs_f64() > end {
                    break;
                }
                self.events.pop();
                self.now = at.as_secs_f64().max(self.now);
                if let Some(event) = self.waiting.remove(&id) {
                    self.handle(event);
                }
            }
            self.now = end;
            self.flow();
        }
        self.outcome()
    }

    fn outcome(self) -> Outcome {
        let image: f64 = self.chunks.iter().map(|chunk| chunk.bytes).sum();
        let mut counts = Counts::default();
        for host in &self.hosts {
            let own = host.exchange.counts();
            counts.served += own.served;
            counts.referred += own.referred;
            counts.refused += own.refused;
            counts.slow += own.slow;
            counts.deputies += own.deputies;
            counts.direct += own.direct;
        }
        let is_slow = |host: usize| self.storm.slow.iter().any(|(slow, _)| *slow == host);
        let of = |is_wanted: &dyn Fn(usize) -> bool| {
            let hosts = self.hosts.iter().enumerate().filter(|(place, _)| is_wanted(*place));
            let pullers = hosts.filter(|(_, host)| host.is_puller && host.is_alive);
            let mut ends: Vec<f64> =
                pullers.map(|(_, host)| host.end.unwrap_or(f64::INFINITY)).collect();
            ends.sort_by(f64::total_cmp);
            ends
        };
        let sent = |place: usize| self.network.sent[place] / image;
        Outcome {
            ends: of(&|_| true),
            healthy: of(&|host| !is_slow(host)),
            failed: self.hosts.iter().filter(|host| host.has_failed).count(),
            origin: sent(self.hosts.len()),
            sent: (0..self.hosts.len()).map(sent).collect(),
            sent_idle: (0..self.hosts.len())
                .filter(|place| !self.hosts[*place].is_puller)
                .map(sent)
                .collect(),
            messages: self.messages,
            counts,
        }
    }

    fn at(&mut self, seconds: f64, event: Event) {
        self.events.push(Reverse((moment(seconds), self.next_event)));
        self.waiting.insert(self.next_event, event);
        self.next_event += 1;
    }

    fn soon(&mut self, event: Event) {
        self.messages += 1;
        let delay = self.storm.delay * (0.5 + self.random.f64());
        self.at(self.now + delay, event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(host) => {
                if self.hosts[host].is_puller {
                    self.read(host);
                }
                self.act(host);
            }
            Event::Tick(host) => {
                self.hosts[host].deadline = None;
                let now = moment(self.now);
                self.hosts[host].exchange.tick(now);
                self.act(host);
            }
            Event::Ask { attempt, asker, to, ask, incoming } => {
                if !self.hosts[to].is_alive {
                    return self.soon(Event::Answer { attempt, asker, answer: Answer::Dead });
                }
                let chunk = self.index[&attempt.item];
                let has = self.hosts[to].here[chunk] >= self.chunks[chunk].bytes;
                let stock = if has { Stock::Whole } else { Stock::Nothing };
                self.asks.insert(ask, (asker, attempt));
                let (now, lanes) = (moment(self.now), self.network.lanes_busy(to));
                let exchange = &mut self.hosts[to].exchange;
                exchange.set_lanes_busy(lanes);
                exchange.asked(ask, incoming, stock, now);
                self.act(to);
            }
            Event::Answer { attempt, asker, answer } => {
                if answer != Answer::Bytes {
                    self.hosts[asker].attempts.remove(&attempt);
                }
                let now = moment(self.now);
                self.hosts[asker].exchange.answered(attempt, answer, now);
                self.act(asker);
            }
            Event::Gone { at, ask } => {
                let now = moment(self.now);
                self.hosts[at].exchange.ask_ended(ask, now);
                self.act(at);
            }
            Event::Fetched { attempt, at } => {
                if self.hosts[at].is_alive && self.hosts[at].attempts.contains_key(&attempt) {
                    let chunk = self.index[&attempt.item];
                    let flow = self.network.begin(self.hosts.len(), at, chunk);
                    self.flows.insert(flow, (attempt, None));
                    self.hosts[at].attempts.insert(attempt, Running::Flowing(flow));
                }
            }
            Event::Death(host) => self.die(host),
        }
    }

    /// Does what a host's exchange says.
    fn act(&mut self, host: usize) {
        while let Some(action) = self.hosts[host].exchange.next_action() {
            match action {
                Action::Ask { attempt, to, role, hop, avoid, is_served } => {
                    let ask = AskId(self.next_ask);
                    self.next_ask += 1;
                    let to = host_of(&to);
                    let chunk = self.index[&attempt.item];
                    let incoming = Incoming {
                        item: attempt.item,
                        from: peer_of(host, &self.hosts),
                        role,
                        offset: self.hosts[host].here[chunk] as u64,
                        hop,
                        load: self.network.lanes_busy(host) as u32,
                        avoid: avoid.to_vec(),
                        is_served,
                    };
                    self.hosts[host].attempts.insert(attempt, Running::Asked(to, ask));
                    self.soon(Event::Ask { attempt, asker: host, to, ask, incoming });
                }
                Action::Fetch { attempt } => {
                    self.hosts[host]
                        .attempts
                        .insert(attempt, Running::Asked(host, AskId(u64::MAX)));
                    let at = host;
                    self.at(self.now + 5.0 * self.storm.delay, Event::Fetched { attempt, at });
                }
                Action::Cancel { attempt } => self.cancel(host, attempt),
                Action::Reply { ask, reply } => self.reply(host, ask, reply),
                Action::Lose { .. } => {
                    self.hosts[host].has_failed = self.hosts[host].is_puller;
                }
            }
        }
        let deadline = self.hosts[host].exchange.deadline();
        if let Some(at) = deadline
            && self.hosts[host].is_alive
            && self.hosts[host].deadline.is_none_or(|before| at < before)
        {
            self.hosts[host].deadline = Some(at);
            self.at(at.as_secs_f64().max(self.now), Event::Tick(host));
        }
    }

    fn reply(&mut self, host: usize, ask: AskId, reply: Reply) {
        let Some((asker, attempt)) = self.asks.get(&ask).copied() else { return };
        let answer = match reply {
            Reply::Serve => {
                if !self.hosts[asker].attempts.contains_key(&attempt) {
                    return self.soon(Event::Gone { at: host, ask });
                }
                let flow = self.network.begin(host, asker, self.index[&attempt.item]);
                self.flows.insert(flow, (attempt, Some(ask)));
                self.hosts[asker].attempts.insert(attempt, Running::Flowing(flow));
                Answer::Bytes
            }
            Reply::Refer(peers) => Answer::Refer(peers),
            Reply::Busy { after } => Answer::Busy { after },
            Reply::Unknown => Answer::Unknown,
            Reply::Failed => Answer::Failed,
        };
        if answer != Answer::Bytes {
            self.asks.remove(&ask);
        }
        self.soon(Event::Answer { attempt, asker, answer });
    }

    fn cancel(&mut self, host: usize, attempt: Attempt) {
        match self.hosts[host].attempts.remove(&attempt) {
            Some(Running::Flowing(flow)) => self.end_flow(flow),
            Some(Running::Asked(to, ask)) if ask != AskId(u64::MAX) => {
                self.soon(Event::Gone { at: to, ask });
            }
            Some(Running::Asked(..)) | None => {}
        }
    }

    fn end_flow(&mut self, flow: FlowId) {
        let from = self.network.flow(flow).map(|flow| flow.from);
        if let Some((_, Some(ask))) = self.flows.remove(&flow)
            && let Some(at) = from
        {
            self.asks.remove(&ask);
            self.soon(Event::Gone { at, ask });
        }
        self.network.end(flow);
    }

    /// Moves bytes for a step.
    fn flow(&mut self) {
        let (hosts, chunks, origin) = (&self.hosts, &self.chunks, self.hosts.len());
        let left = |flow: &crate::network::Flow| {
            let has = if flow.from == origin {
                chunks[flow.item].bytes
            } else {
                hosts[flow.from].here[flow.item]
            };
            (has - hosts[flow.to].here[flow.item]).max(0.0)
        };
        let mut moves: Vec<(usize, usize, f64)> = Vec::new();
        self.network
            .step(self.storm.step, left, |flow, bytes| moves.push((flow.to, flow.item, bytes)));
        let mut arrived = Vec::new();
        for (to, item, bytes) in moves {
            let whole = self.chunks[item].bytes;
            let here = &mut self.hosts[to].here[item];
            if *here < whole {
                *here += bytes;
                if *here >= whole - 0.5 {
                    *here = whole;
                    arrived.push((to, item));
                }
            }
        }
        let progress: Vec<(Attempt, usize, usize)> = self
            .flows
            .iter()
            .filter_map(|(flow, (attempt, _))| {
                let flow = self.network.flow(*flow)?;
                Some((*attempt, flow.to, flow.item))
            })
            .collect();
        for (attempt, to, item) in progress {
            let here = self.hosts[to].here[item] as u64;
            self.hosts[to].exchange.progressed(attempt.item, here);
        }
        for (host, chunk) in arrived {
            self.arrive(host, chunk);
        }
    }

    fn arrive(&mut self, host: usize, chunk: usize) {
        let item = self.chunks[chunk].item;
        let done: Vec<Attempt> = self.hosts[host]
            .attempts
            .keys()
            .filter(|attempt| attempt.item == item)
            .copied()
            .collect();
        let now = moment(self.now);
        self.hosts[host].exchange.arrived(item, now);
        for attempt in done {
            self.cancel(host, attempt);
        }
        self.hosts[host].left -= 1;
        if self.hosts[host].is_puller {
            if self.hosts[host].left == 0 {
                self.hosts[host].end = Some(self.now);
            }
            self.read(host);
        }
        self.act(host);
    }

    /// Has the client of a host read what is there, and wants what comes next.
    fn read(&mut self, host: usize) {
        let now = moment(self.now);
        let Host { exchange, here, cursors, next_blob, open_blobs, .. } = &mut self.hosts[host];
        let is_here = |chunk: usize| here[chunk] >= self.chunks[chunk].bytes;
        open_blobs.retain(|blob| {
            let Blob { first, chunks } = self.blobs[*blob];
            let (read, _) = &mut cursors[*blob];
            while *read < first + chunks && is_here(*read) {
                *read += 1;
            }
            *read < first + chunks
        });
        while open_blobs.len() < AT_ONCE && *next_blob < self.blobs.len() {
            open_blobs.push(*next_blob);
            *next_blob += 1;
        }
        for blob in open_blobs.iter() {
            let Blob { first, chunks } = self.blobs[*blob];
            let (read, wanted) = &mut cursors[*blob];
            let until = (*read + AHEAD).min(first + chunks);
            let mut more: Vec<usize> = (*wanted..until).filter(|chunk| !is_here(*chunk)).collect();
            self.random.shuffle(&mut more);
            *wanted = until.max(*wanted);
            for chunk in more {
                exchange.want(self.chunks[chunk].item, Need::Ahead, now);
            }
            if *read < first + chunks && !is_here(*read) {
                exchange.want(self.chunks[*read].item, Need::Now, now);
            }
        }
    }

    fn die(&mut self, host: usize) {
        self.hosts[host].is_alive = false;
        let all: Vec<FlowId> = self.flows.keys().copied().collect();
        for id in all {
            let Some(flow) = self.network.flow(id) else { continue };
            if flow.from != host && flow.to != host {
                continue;
            }
            let Some((attempt, ask)) = self.flows.remove(&id) else { continue };
            self.network.end(id);
            let now = moment(self.now);
            if flow.to == host {
                if let Some(ask) = ask {
                    self.soon(Event::Gone { at: flow.from, ask });
                }
            } else {
                self.hosts[flow.to].attempts.remove(&attempt);
                self.hosts[flow.to].exchange.broke(attempt, Trouble::Broken, now);
                self.act(flow.to);
            }
        }
    }
}

impl Host {
    const fn is_waiting(&self) -> bool {
        self.is_alive && self.is_puller && self.end.is_none() && !self.has_failed
    }
}

/// The number of a host is its port and address, so that it is found again.
fn peer(host: usize, random: &mut fastrand::Rng) -> Peer {
    let address = SocketAddr::from((Ipv4Addr::from(host as u32), 1));
    Peer { id: NodeId::new(u128::from(random.u64(..)) << 64 | host as u128), address }
}

fn host_of(peer: &Peer) -> usize {
    peer.id.number() as u64 as usize
}

fn peer_of(host: usize, hosts: &[Host]) -> Peer {
    hosts[host].exchange.me()
}
