//! A storm: hosts that pull the same image at the same time, each through a node of its own. The nodes are the daemon's
//! own [`Exchange`]; time, network, storage and clients are made up.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use millpond::cluster::{
    Item, Member, NodeId, Peer, View,
    exchange::{
        Action, Answer, AskId, Attempt, Counts, Exchange, Incoming, Moment, Need, Reply, Role,
        Stock, Trouble,
    },
};

use crate::{
    agenda::{Agenda, Event},
    host::{Host, Running},
    network::{Flow, FlowId, Network},
    storm::{Image, Outcome, Second, Storm},
};

/// Seconds within which clients begin.
const START: f64 = 0.01;

/// Seconds within which all have heard of who has joined.
const NEWS: f64 = 2.0;

/// How long the storage thinks, in delays of a message.
const STORAGE_DELAYS: f64 = 5.0;

/// What is read from a socket and passed on at once.
const PIECE_BYTES: f64 = 8192.0;

pub(crate) struct Model {
    storm: Storm,
    image: Image,
    index: HashMap<Item, usize>,
    peers: Vec<Peer>,
    hosts: Vec<Host>,
    waiting: usize,
    network: Network,
    /// What each flow is for: the attempt at the receiver and the request at the sender.
    flows: Vec<Option<(Attempt, Option<AskId>)>>,
    agenda: Agenda,
    next_ask: u64,
    asks: HashMap<AskId, (usize, Attempt)>,
    now: f64,
    random: fastrand::Rng,
    messages: u64,
    course: Vec<Second>,
    /// What each link had carried when the last second ended.
    carried: [Vec<f64>; 2],
}

fn moment(seconds: f64) -> Moment {
    Duration::from_secs_f64(seconds)
}

impl Model {
    pub(crate) fn new(storm: Storm) -> Self {
        let image = Image::of(&storm);
        let index = image.parts.iter().enumerate().map(|(place, part)| (part.item, place));
        let index = index.collect();
        let mut random = fastrand::Rng::with_seed(storm.seed);
        let peers: Vec<Peer> = (0..storm.hosts).map(|host| peer(host, &mut random)).collect();
        let factor = |host: usize| {
            storm.slow.iter().find(|(slow, _)| *slow == host).map_or(1.0, |(_, factor)| *factor)
        };
        let mut up: Vec<f64> = (0..storm.hosts).map(|host| storm.rate * factor(host)).collect();
        let down = up.iter().copied().chain([0.0]).collect();
        up.push(storm.origin_rate);
        let nodes = up.len();
        let mut model = Self {
            image,
            index,
            peers,
            hosts: Vec::new(),
            waiting: 0,
            network: Network::new(up, down),
            flows: Vec::new(),
            agenda: Agenda::default(),
            next_ask: 0,
            asks: HashMap::new(),
            now: 0.0,
            random,
            messages: 0,
            course: Vec::new(),
            carried: [vec![0.0; nodes], vec![0.0; nodes]],
            storm,
        };
        model.populate();
        model
    }

    fn populate(&mut self) {
        let views = self.views(|storm, host| storm.joins.iter().all(|(joins, _)| *joins != host));
        for host in 0..self.storm.hosts {
            let view = Arc::clone(&views[host % views.len()]);
            let exchange = Exchange::new(self.peers[host], self.storm.limits, view);
            let pullers = &self.storm.pullers;
            let is_puller = pullers.is_empty() || pullers.contains(&host);
            self.hosts.push(Host::new(exchange, &self.image, is_puller));
            let joins = self.storm.joins.iter().find(|(joins, _)| *joins == host);
            let begun = joins.map_or(0.0, |(_, at)| *at) + START * self.random.f64();
            self.hosts[host].begun = begun;
            self.agenda.note(begun, Event::Start(host));
        }
        for (_, at) in self.storm.joins.clone() {
            for host in 0..self.storm.hosts {
                self.agenda.note(at + NEWS * self.random.f64(), Event::News(host));
            }
        }
        for (host, at) in self.storm.deaths.clone() {
            self.agenda.note(at, Event::Death(host));
        }
        self.waiting = self.hosts.iter().filter(|host| host.is_waiting()).count();
    }

    /// What hosts know of each other: all the same, or every other one the same.
    fn views(&self, is_there: impl Fn(&Storm, usize) -> bool) -> Vec<Arc<View>> {
        let storm = &self.storm;
        let owners = if storm.owners == 0 { storm.hosts } else { storm.owners };
        let parts = if storm.is_split { 2 } else { 1 };
        let view = |part: usize| {
            let there = (0..owners).filter(|host| host % parts == part && is_there(storm, *host));
            let members = there.map(|host| Member { peer: self.peers[host], weight: 1 });
            Arc::new(View::new(members.collect()))
        };
        (0..parts).map(view).collect()
    }

    /// Lets it happen, until everybody is ready or `most` seconds have passed.
    pub(crate) fn run(mut self, most: f64) -> Outcome {
        while self.now < most && self.waiting > 0 {
            let end = self.now + self.storm.step;
            while let Some((at, event)) = self.agenda.next(end) {
                self.now = at.max(self.now);
                self.handle(event);
            }
            self.now = end;
            self.flow();
            if self.now >= (self.course.len() + 1) as f64 {
                self.note_second();
            }
        }
        self.outcome()
    }

    fn note_second(&mut self) {
        let nodes = self.hosts.len();
        let of = |carried: &[f64], before: &[f64]| {
            let share = |host: usize| (carried[host] - before[host]) / self.storm.rate;
            let shares: Vec<f64> = (0..nodes).map(share).collect();
            let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
            let most = shares.iter().copied().fold(0.0, f64::max);
            [shares.iter().sum::<f64>() / nodes as f64, least, most]
        };
        let Network { sent, received, .. } = &self.network;
        self.course.push(Second {
            origin: (sent[nodes] - self.carried[0][nodes]) / self.storm.origin_rate,
            up: of(sent, &self.carried[0]),
            down: of(received, &self.carried[1]),
            fetching: self.hosts.iter().map(|host| host.exchange.fetches().0).sum(),
        });
        self.carried = [sent.clone(), received.clone()];
    }

    fn outcome(self) -> Outcome {
        let image = self.storm.image_bytes() as f64;
        let mut counts = Counts::default();
        for host in &self.hosts {
            let own = host.exchange.counts();
            counts.served += own.served;
            counts.referred += own.referred;
            counts.refused += own.refused;
            counts.passed += own.passed;
            counts.slow += own.slow;
            counts.deputies += own.deputies;
            counts.direct += own.direct;
        }
        let is_slow = |host: usize| self.storm.slow.iter().any(|(slow, _)| *slow == host);
        let of = |is_wanted: &dyn Fn(usize) -> bool| {
            let hosts = self.hosts.iter().enumerate().filter(|(place, _)| is_wanted(*place));
            let pullers = hosts.filter(|(_, host)| host.is_puller && host.is_alive);
            let took = |host: &Host| host.end.map_or(f64::INFINITY, |end| end - host.begun);
            let mut ends: Vec<f64> = pullers.map(|(_, host)| took(host)).collect();
            ends.sort_by(f64::total_cmp);
            ends
        };
        let sent = |place: usize| self.network.sent[place] / image;
        let idle = |place: &usize| !self.hosts[*place].is_puller;
        Outcome {
            ends: of(&|_| true),
            healthy: of(&|host| !is_slow(host)),
            failed: self.hosts.iter().filter(|host| host.has_failed).count(),
            origin: sent(self.hosts.len()),
            sent: (0..self.hosts.len()).map(sent).collect(),
            sent_idle: (0..self.hosts.len()).filter(idle).map(sent).collect(),
            messages: self.messages,
            counts,
            course: self.course,
        }
    }

    fn soon(&mut self, event: Event) {
        self.messages += 1;
        let delay = self.storm.delay * (0.5 + self.random.f64());
        self.agenda.note(self.now + delay, event);
    }

    fn handle(&mut self, event: Event) {
        let now = moment(self.now);
        match event {
            Event::Start(host) => {
                self.hosts[host].has_begun = true;
                self.read(host);
                self.act(host);
            }
            Event::Tick(host) => {
                self.hosts[host].deadline = None;
                if self.hosts[host].is_alive {
                    let Host { exchange, here, .. } = &mut self.hosts[host];
                    exchange.came(self.network.received[host] as u64, now);
                    exchange.tick(now, |item| here[self.index[&item]] as u64);
                    self.act(host);
                }
            }
            Event::Ask { attempt, asker, to, ask, incoming, is_known } => {
                if self.hosts[to].is_alive {
                    self.asks.insert(ask, (asker, attempt));
                    self.ask(to, (ask, incoming), is_known);
                } else {
                    self.soon(Event::Answer { attempt, asker, answer: Answer::Dead });
                }
            }
            Event::Answer { attempt, asker, answer } => self.answer(asker, attempt, answer),
            Event::Gone { at, ask } => {
                self.hosts[at].exchange.ask_ended(ask, now);
                self.act(at);
            }
            Event::Fetched { attempt, at } => {
                let part = self.index[&attempt.item];
                if self.hosts[at].is_alive && self.hosts[at].is_running(part, attempt) {
                    self.begin((self.hosts.len(), at), part, (attempt, None));
                    self.learn(at, part);
                    self.act(at);
                }
            }
            Event::Death(host) => self.die(host),
            Event::News(host) => {
                let now = self.now;
                let views = self.views(|storm, host| {
                    storm.joins.iter().all(|(joins, at)| *joins != host || *at <= now)
                });
                let view = Arc::clone(&views[host % views.len()]);
                self.hosts[host].exchange.set_view(view);
            }
        }
    }

    /// Has a node answer a request.
    fn ask(&mut self, to: usize, (ask, incoming): (AskId, Incoming), is_known: bool) {
        let now = moment(self.now);
        let part = self.index[&incoming.item];
        let stock =
            if self.hosts[to].has(part, &self.image) { Stock::Whole } else { Stock::Nothing };
        let blob = self.image.parts[part].blob;
        let host = &mut self.hosts[to];
        let is_owner = incoming.role != Role::Holder && incoming.hop == 0;
        if stock == Stock::Nothing && is_owner && !is_known && !host.known[blob] {
            host.exchange.want(incoming.item, Need::Open, now);
        }
        host.exchange.progressed(incoming.item, host.here[part] as u64);
        host.exchange.asked(ask, incoming, stock, now);
        self.act(to);
    }

    fn answer(&mut self, asker: usize, attempt: Attempt, answer: Answer) {
        let part = self.index[&attempt.item];
        let is_given = answer == Answer::Bytes;
        if !is_given {
            self.hosts[asker].stop(part, attempt);
        }
        self.hosts[asker].exchange.answered(attempt, answer, moment(self.now));
        if is_given {
            self.learn(asker, part);
        }
        self.act(asker);
    }

    /// Whoever is given a part of a blob learns how long the blob is.
    fn learn(&mut self, host: usize, part: usize) {
        let blob = self.image.parts[part].blob;
        if !std::mem::replace(&mut self.hosts[host].known[blob], true) {
            self.read(host);
        }
    }

    fn read(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        if host.is_puller && host.is_alive && host.has_begun {
            host.read(&self.image, &mut self.random, moment(self.now));
        }
    }

    /// Does what a host's exchange says.
    fn act(&mut self, host: usize) {
        while let Some(action) = self.hosts[host].exchange.next_action() {
            match action {
                Action::Ask { attempt, to, role, hop, avoid, is_served } => {
                    let part = self.index[&attempt.item];
                    let from = &self.hosts[host];
                    let is_known = from.known[self.image.parts[part].blob];
                    let incoming = Incoming {
                        item: attempt.item,
                        from: self.peers[host],
                        role,
                        offset: from.here[part] as u64,
                        hop,
                        load: from.exchange.load(),
                        rate: from.exchange.rate(),
                        avoid: avoid.to_vec(),
                        is_served,
                    };
                    let (ask, to) = (AskId(self.next_ask), host_of(&to));
                    self.next_ask += 1;
                    self.hosts[host].run(part, attempt, Running::Asked(to, ask));
                    self.soon(Event::Ask { attempt, asker: host, to, ask, incoming, is_known });
                }
                Action::Fetch { attempt } => {
                    self.hosts[host].run(self.index[&attempt.item], attempt, Running::Fetching);
                    let at = self.now + STORAGE_DELAYS * self.storm.delay;
                    self.agenda.note(at, Event::Fetched { attempt, at: host });
                }
                Action::Cancel { attempt } => self.cancel(host, attempt),
                Action::Reply { ask, reply } => self.reply(host, ask, reply),
                // What no client wants here was only given up for others.
                Action::Lose { item, .. } if !self.hosts[host].wants(self.index[&item]) => {}
                Action::Lose { .. } => {
                    self.waiting -= usize::from(self.hosts[host].is_waiting());
                    self.hosts[host].has_failed = self.hosts[host].is_puller;
                }
            }
        }
        let Host { exchange, deadline, is_alive, .. } = &mut self.hosts[host];
        if let Some(at) = exchange.deadline()
            && *is_alive
            && deadline.is_none_or(|before| at < before)
        {
            *deadline = Some(at);
            self.agenda.note(at.as_secs_f64().max(self.now), Event::Tick(host));
        }
    }

    fn reply(&mut self, host: usize, ask: AskId, reply: Reply) {
        let Some((asker, attempt)) = self.asks.get(&ask).copied() else { return };
        let answer = match reply {
            Reply::Serve => {
                let part = self.index[&attempt.item];
                if !self.hosts[asker].is_running(part, attempt) {
                    return self.soon(Event::Gone { at: host, ask });
                }
                self.begin((host, asker), part, (attempt, Some(ask)));
                Answer::Bytes
            }
            Reply::Refer(peers) => Answer::Refer(peers),
            Reply::Busy { after } => Answer::Busy { after },
            Reply::Pass => Answer::Pass,
            Reply::Unknown => Answer::Unknown,
            Reply::Failed => Answer::Failed,
        };
        if answer != Answer::Bytes {
            self.asks.remove(&ask);
        }
        self.soon(Event::Answer { attempt, asker, answer });
    }

    fn begin(
        &mut self,
        (from, to): (usize, usize),
        part: usize,
        (attempt, ask): (Attempt, Option<AskId>),
    ) {
        let flow = self.network.begin(from, to, part);
        if flow >= self.flows.len() {
            self.flows.push(None);
        }
        self.flows[flow] = Some((attempt, ask));
        self.hosts[to].run(part, attempt, Running::Flowing(flow));
    }

    fn cancel(&mut self, host: usize, attempt: Attempt) {
        match self.hosts[host].stop(self.index[&attempt.item], attempt) {
            Some(Running::Flowing(flow)) => self.end_flow(flow),
            Some(Running::Asked(to, ask)) => self.soon(Event::Gone { at: to, ask }),
            Some(Running::Fetching) | None => {}
        }
    }

    fn end_flow(&mut self, flow: FlowId) {
        let from = self.network.flow(flow).map(|flow| flow.from);
        if let Some((_, Some(ask))) = self.flows[flow].take()
            && let Some(at) = from
        {
            self.asks.remove(&ask);
            self.soon(Event::Gone { at, ask });
        }
        self.network.end(flow);
    }

    /// Moves bytes for a step.
    fn flow(&mut self) {
        let (hosts, parts, origin) = (&mut self.hosts, &self.image.parts, self.peers.len());
        let left = |flow: &Flow| {
            let whole = parts[flow.part].bytes;
            let has = if flow.from == origin { whole } else { hosts[flow.from].here[flow.part] };
            let has = if has < whole { (has / PIECE_BYTES).floor() * PIECE_BYTES } else { whole };
            (has - hosts[flow.to].here[flow.part]).max(0.0)
        };
        let mut moves: Vec<(usize, usize, f64)> = Vec::new();
        self.network
            .step(self.storm.step, left, |flow, bytes| moves.push((flow.to, flow.part, bytes)));
        let mut arrived = Vec::new();
        for (to, part, bytes) in moves {
            let whole = parts[part].bytes;
            let here = &mut hosts[to].here[part];
            if *here < whole {
                *here += bytes;
                if *here >= whole - 0.5 {
                    *here = whole;
                    arrived.push((to, part));
                }
            }
        }
        for (host, part) in arrived {
            self.arrive(host, part);
        }
    }

    fn arrive(&mut self, host: usize, part: usize) {
        let item = self.image.parts[part].item;
        let was_waiting = self.hosts[host].is_waiting();
        self.hosts[host].exchange.arrived(item, moment(self.now));
        for (attempt, _) in self.hosts[host].attempts.get(&part).cloned().unwrap_or_default() {
            self.cancel(host, attempt);
        }
        self.hosts[host].arrived(self.now);
        self.waiting -= usize::from(was_waiting && !self.hosts[host].is_waiting());
        self.read(host);
        self.act(host);
    }

    fn die(&mut self, host: usize) {
        self.waiting -= usize::from(self.hosts[host].is_waiting());
        self.hosts[host].is_alive = false;
        let now = moment(self.now);
        for id in self.network.of(host) {
            let (Some(flow), Some((attempt, ask))) = (self.network.flow(id), self.flows[id].take())
            else {
                continue;
            };
            self.network.end(id);
            if flow.to != host {
                self.hosts[flow.to].stop(flow.part, attempt);
                self.hosts[flow.to].exchange.broke(attempt, Trouble::Broken, now);
                self.act(flow.to);
            } else if let Some(ask) = ask {
                self.soon(Event::Gone { at: flow.from, ask });
            }
        }
    }
}

/// The number of a host is the end of its id, so that it is found again.
fn peer(host: usize, random: &mut fastrand::Rng) -> Peer {
    let address = SocketAddr::from((Ipv4Addr::from(host as u32), 1));
    Peer { id: NodeId::new(u128::from(random.u64(..)) << 64 | host as u128), address }
}

fn host_of(peer: &Peer) -> usize {
    peer.id.number() as u64 as usize
}
