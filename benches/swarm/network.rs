//! Bytes on their way between nodes whose links have limits: each step of time, every sender divides what its link
//! carries among those it sends to, and every receiver what its link carries among those it receives from.

/// How often what one side could not take is given to others.
const ROUNDS: usize = 3;

/// Names a flow until it has ended.
pub(crate) type FlowId = usize;

/// Bytes of one item on their way from one node to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) part: usize,
    /// What could be sent and is not yet.
    backlog: f64,
    moved: f64,
    offered: f64,
    taken: f64,
}

/// Links with limits in bytes per second, and what flows over them.
#[derive(Debug)]
pub(crate) struct Network {
    up: Vec<f64>,
    down: Vec<f64>,
    flows: Vec<Option<Flow>>,
    free: Vec<FlowId>,
    sending: Vec<Vec<FlowId>>,
    receiving: Vec<Vec<FlowId>>,
    /// Bytes that each node has sent.
    pub(crate) sent: Vec<f64>,
    pub(crate) received: Vec<f64>,
    /// What each link still carries in this step.
    up_left: Vec<f64>,
    down_left: Vec<f64>,
}

impl Network {
    pub(crate) fn new(up: Vec<f64>, down: Vec<f64>) -> Self {
        let nodes = up.len();
        Self {
            up,
            down,
            flows: Vec::new(),
            free: Vec::new(),
            sending: vec![Vec::new(); nodes],
            receiving: vec![Vec::new(); nodes],
            sent: vec![0.0; nodes],
            received: vec![0.0; nodes],
            up_left: vec![0.0; nodes],
            down_left: vec![0.0; nodes],
        }
    }

    pub(crate) fn begin(&mut self, from: usize, to: usize, part: usize) -> FlowId {
        let flow = Flow { from, to, part, backlog: 0.0, moved: 0.0, offered: 0.0, taken: 0.0 };
        let id = self.free.pop().unwrap_or(self.flows.len());
        if id == self.flows.len() {
            self.flows.push(None);
        }
        self.flows[id] = Some(flow);
        self.sending[from].push(id);
        self.receiving[to].push(id);
        id
    }

    pub(crate) fn end(&mut self, id: FlowId) {
        let Some(flow) = self.flows[id].take() else { return };
        self.sending[flow.from].retain(|other| *other != id);
        self.receiving[flow.to].retain(|other| *other != id);
        self.free.push(id);
    }

    pub(crate) fn flow(&self, id: FlowId) -> Option<Flow> {
        self.flows[id]
    }

    /// What flows from or to a node.
    pub(crate) fn of(&self, node: usize) -> Vec<FlowId> {
        self.sending[node].iter().chain(&self.receiving[node]).copied().collect()
    }

    /// Lets `seconds` pass. `left` tells how many bytes of an item its sender has that the receiver has not; what has
    /// moved is told to `moved`.
    pub(crate) fn step(
        &mut self,
        seconds: f64,
        left: impl Fn(&Flow) -> f64,
        mut moved: impl FnMut(&Flow, f64),
    ) {
        for flow in self.flows.iter_mut().flatten() {
            (flow.backlog, flow.moved) = (left(flow), 0.0);
        }
        for (left, rate) in self.up_left.iter_mut().zip(&self.up) {
            *left = rate * seconds;
        }
        for (left, rate) in self.down_left.iter_mut().zip(&self.down) {
            *left = rate * seconds;
        }
        // What one side could not take in the first round is given to others in the second.
        for _round in 0..ROUNDS {
            self.offer();
            self.take();
        }
        for flow in self.flows.iter().flatten().filter(|flow| flow.moved > 0.0) {
            self.sent[flow.from] += flow.moved;
            self.received[flow.to] += flow.moved;
            moved(flow, flow.moved);
        }
    }

    fn offer(&mut self) {
        let mut wants = Vec::new();
        for (node, ids) in self.sending.iter().enumerate() {
            wants.clear();
            for id in ids {
                let Some(flow) = &mut self.flows[*id] else { continue };
                flow.offered = 0.0;
                if flow.backlog > 0.0 {
                    wants.push((flow.backlog, *id));
                }
            }
            divide(self.up_left[node], &mut wants, |id, share| {
                if let Some(flow) = &mut self.flows[id] {
                    flow.offered = share;
                }
            });
        }
    }

    fn take(&mut self) {
        let mut wants = Vec::new();
        for (node, ids) in self.receiving.iter().enumerate() {
            wants.clear();
            let offered = |id: &FlowId| self.flows[*id].map(|flow| (flow.offered, *id));
            wants.extend(ids.iter().filter_map(offered).filter(|(offer, _)| *offer > 0.0));
            divide(self.down_left[node], &mut wants, |id, share| {
                if let Some(flow) = &mut self.flows[id] {
                    flow.taken = share;
                }
            });
            for (_, id) in &wants {
                let Some(flow) = &mut self.flows[*id] else { continue };
                flow.moved += flow.taken;
                flow.backlog -= flow.taken;
                self.up_left[flow.from] -= flow.taken;
                self.down_left[node] -= flow.taken;
            }
        }
    }
}

/// Divides `room` among those who want something: equally, but nobody gets more than it wants.
fn divide(room: f64, wants: &mut [(f64, FlowId)], mut give: impl FnMut(FlowId, f64)) {
    let room = room.max(0.0);
    if wants.iter().map(|(want, _)| want).sum::<f64>() <= room {
        return wants.iter().for_each(|(want, id)| give(*id, *want));
    }
    wants.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    let (mut room, mut left) = (room, wants.len());
    for (want, id) in wants {
        let share = want.min(room / left as f64);
        give(*id, share);
        room -= share;
        left -= 1;
    }
}
