//! A host: a node, and the client that pulls through it.

use std::collections::HashMap;

use millpond::cluster::exchange::{AskId, Attempt, Exchange, Moment, Need};

use crate::{network::FlowId, storm::Image};

/// Blobs that a client pulls at once.
const AT_ONCE: usize = 3;

/// Parts that are wanted ahead of a client.
const AHEAD: usize = 32;

pub(crate) struct Host {
    pub(crate) exchange: Exchange,
    pub(crate) is_alive: bool,
    pub(crate) is_puller: bool,
    pub(crate) has_failed: bool,
    /// Bytes of each part that are here.
    pub(crate) here: Vec<f64>,
    /// The blobs whose lengths are known here.
    pub(crate) known: Vec<bool>,
    left: usize,
    cursors: Vec<Cursor>,
    next_blob: usize,
    open_blobs: Vec<usize>,
    /// When its client begins, and whether it has.
    pub(crate) begun: f64,
    pub(crate) has_begun: bool,
    pub(crate) end: Option<f64>,
    /// The deadline for which there is an event.
    pub(crate) deadline: Option<Moment>,
    /// What is under way for each part.
    pub(crate) attempts: HashMap<usize, Vec<(Attempt, Running)>>,
}

/// How far a client is with a blob.
#[derive(Clone, Copy)]
struct Cursor {
    /// The first part that is not here.
    read: usize,
    /// The first that was not wanted.
    wanted: usize,
}

#[derive(Clone, Copy)]
pub(crate) enum Running {
    Asked(usize, AskId),
    /// The storage is asked.
    Fetching,
    Flowing(FlowId),
}

impl Host {
    pub(crate) fn new(exchange: Exchange, image: &Image, is_puller: bool) -> Self {
        Self {
            exchange,
            is_alive: true,
            is_puller,
            has_failed: false,
            here: vec![0.0; image.parts.len()],
            known: vec![false; image.blobs.len()],
            left: image.parts.len(),
            cursors: image
                .blobs
                .iter()
                .map(|parts| Cursor { read: parts.start, wanted: parts.start })
                .collect(),
            next_blob: 0,
            open_blobs: Vec::new(),
            begun: 0.0,
            has_begun: false,
            end: None,
            deadline: None,
            attempts: HashMap::new(),
        }
    }

    pub(crate) const fn is_waiting(&self) -> bool {
        self.is_alive && self.is_puller && self.end.is_none() && !self.has_failed
    }

    pub(crate) fn has(&self, part: usize, image: &Image) -> bool {
        self.here[part] >= image.parts[part].bytes
    }

    /// Whether the client waits for a part, now or soon.
    pub(crate) fn wants(&self, part: usize) -> bool {
        let is_wanted = |cursor: &Cursor| (cursor.read..cursor.wanted).contains(&part);
        self.is_puller && self.cursors.iter().any(is_wanted)
    }

    /// Notes that an attempt has gone on.
    pub(crate) fn run(&mut self, part: usize, attempt: Attempt, running: Running) {
        let attempts = self.attempts.entry(part).or_default();
        attempts.retain(|(other, _)| *other != attempt);
        attempts.push((attempt, running));
    }

    /// Forgets an attempt. Returns how far it was.
    pub(crate) fn stop(&mut self, part: usize, attempt: Attempt) -> Option<Running> {
        let attempts = self.attempts.get_mut(&part)?;
        let place = attempts.iter().position(|(other, _)| *other == attempt)?;
        let (_, running) = attempts.swap_remove(place);
        if attempts.is_empty() {
            self.attempts.remove(&part);
        }
        Some(running)
    }

    pub(crate) fn is_running(&self, part: usize, attempt: Attempt) -> bool {
        self.attempts.get(&part).is_some_and(|all| all.iter().any(|(other, _)| *other == attempt))
    }

    /// Notes that all of a part is here.
    pub(crate) fn arrived(&mut self, now: f64) {
        self.left -= 1;
        if self.left == 0 && self.is_puller {
            self.end = Some(now);
        }
    }

    /// Has the client read what is there, and wants what comes next.
    pub(crate) fn read(&mut self, image: &Image, random: &mut fastrand::Rng, now: Moment) {
        let Self { exchange, here, cursors, next_blob, open_blobs, known, .. } = self;
        let is_here = |part: usize| here[part] >= image.parts[part].bytes;
        open_blobs.retain(|blob| {
            let read = &mut cursors[*blob].read;
            while *read < image.blobs[*blob].end && is_here(*read) {
                *read += 1;
            }
            *read < image.blobs[*blob].end
        });
        while open_blobs.len() < AT_ONCE && *next_blob < image.blobs.len() {
            open_blobs.push(*next_blob);
            *next_blob += 1;
        }
        for blob in open_blobs.iter().copied() {
            let Cursor { read, wanted } = &mut cursors[blob];
            if !known[blob] {
                exchange.want(image.parts[*read].item, Need::Open, now);
                continue;
            }
            let until = (*read + AHEAD).min(image.blobs[blob].end);
            let mut more: Vec<usize> = (*wanted..until).filter(|part| !is_here(*part)).collect();
            random.shuffle(&mut more);
            *wanted = until.max(*wanted);
            for part in more {
                exchange.want(image.parts[part].item, Need::Ahead, now);
            }
            if *read < image.blobs[blob].end && !is_here(*read) {
                exchange.want(image.parts[*read].item, Need::Now, now);
            }
        }
    }
}
