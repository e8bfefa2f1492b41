//! Bytes on their way between nodes whose links have limits: each step of time, every sender divides what its link
//! carries among those it sends to, and every receiver what its link carries among those it receives from.

/// How often what one side could not take is given to others.
const ROUNDS: usize = 4;

/// Names a flow until it has ended.
pub(crate) type FlowId = usize;

/// Bytes of one item on their way from one node to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) item: usize,
    /// What could be sent and is not yet.
    pub(crate) backlog: f64,
    /// It has not had a share yet.
    pub(crate) is_new: bool,
    moved: f64,
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
        }
    }

    pub(crate) fn begin(&mut self, from: usize, to: usize, item: usize) -> FlowId {
        let flow = Flow { from, to, item, backlog: 0.0, is_new: true, moved: 0.0 };
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

    /// Those that a node sends and could send faster if its link carried more.
    pub(crate) fn lanes_busy(&self, node: usize) -> usize {
        let is_busy =
            |id: &&FlowId| self.flows[**id].is_some_and(|flow| flow.is_new || flow.backlog > 1.0);
        self.sending[node].iter().filter(is_busy).count()
    }

    pub(crate) fn flow(&self, id: FlowId) -> Option<Flow> {
        self.flows[id]
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
            (flow.backlog, flow.moved, flow.is_new) = (left(flow), 0.0, false);
        }
        // What one side could not take in the first round is given to others in the second.
        for _round in 0..ROUNDS {
            let mut offers = vec![0.0; self.flows.len()];
            for (node, ids) in self.sending.iter().enumerate() {
                let wanted = |id: &FlowId| self.flows[*id].map_or(0.0, |flow| flow.backlog);
                let used: f64 =
                    ids.iter().filter_map(|id| self.flows[*id]).map(|flow| flow.moved).sum();
                divide(self.up[node] * seconds - used, ids, wanted, &mut offers);
            }
            let mut taken = vec![0.0; self.flows.len()];
            for (node, ids) in self.receiving.iter().enumerate() {
                let used: f64 =
                    ids.iter().filter_map(|id| self.flows[*id]).map(|flow| flow.moved).sum();
                divide(self.down[node] * seconds - used, ids, |id| offers[*id], &mut taken);
            }
            for (id, flow) in self.flows.iter_mut().enumerate() {
                if let Some(flow) = flow {
                    flow.moved += taken[id];
                    flow.backlog -= taken[id];
                }
            }
        }
        for flow in self.flows.iter().flatten().filter(|flow| flow.moved > 0.0) {
            self.sent[flow.from] += flow.moved;
            self.received[flow.to] += flow.moved;
            moved(flow, flow.moved);
        }
    }
}

/// Divides `room` among those who want something: equally, but nobody gets more than it wants.
fn divide(room: f64, ids: &[FlowId], wanted: impl Fn(&FlowId) -> f64, given: &mut [f64]) {
    let mut wants: Vec<(f64, FlowId)> =
        ids.iter().map(|id| (wanted(id), *id)).filter(|(want, _)| *want > 0.0).collect();
    wants.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut room, mut left) = (room.max(0.0), wants.len());
    for (want, id) in wants {
        let gets = want.min(room / left as f64);
        given[id] = gets;
        room -= gets;
        left -= 1;
    }
}
