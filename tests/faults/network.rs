//! The lines between the nodes of a test, and what is wrong with them.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    process::{Child, Command},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// A node of a test, by its number.
pub(crate) type Number = usize;

/// The lines between the nodes of a test. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Shared>);

#[derive(Default)]
struct Shared {
    faults: watch::Sender<Faults>,
    processes: Mutex<HashMap<Number, u32>>,
    lines: Mutex<HashMap<Number, Arc<Line>>>,
}

/// What is wrong now.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Whose connections to whom are there and carry nothing.
    silent: HashSet<(Number, Number)>,
    /// Who sends parts with a wrong bit in them, and in which byte.
    damaging: HashMap<Number, usize>,
}

/// What one node can send and receive at most.
pub(crate) struct Line {
    sends: Lane,
    receives: Lane,
}

/// One direction of a line.
struct Lane {
    bytes_per_second: u64,
    /// When all that it was given is through.
    free: Mutex<Instant>,
}

impl Network {
    /// Starts the process of a node.
    pub(crate) fn spawn(&self, node: Number, command: &mut Command) -> Child {
        // Locked, because it may be at a relay before this knows which process it is.
        let mut processes = self.processes();
        let process = command.spawn().expect("the program starts");
        processes.insert(node, process.id());
        process
    }

    /// The node whose connection this is, seen from the other end, where it has come from `near` and leads to `far`.
    pub(crate) async fn owner_of(&self, near: SocketAddr, far: SocketAddr) -> Option<Number> {
        let network = self.clone();
        // The list may be long.
        let looking = tokio::task::spawn_blocking(move || {
            let socket = socket_between(near, far)?;
            let processes = network.processes();
            let mut nodes = processes.iter();
            nodes.find(|(_, process)| has_open(**process, &socket)).map(|(node, _)| *node)
        });
        looking.await.expect("it does not panic")
    }

    /// From now on nothing that these ask of those gets there, and no answer back.
    pub(crate) fn cut(&self, askers: &[Number], asked: &[Number]) {
        self.0.faults.send_modify(|faults| {
            let ways = askers.iter().flat_map(|from| asked.iter().map(|to| (*from, *to)));
            faults.silent.extend(ways.filter(|(from, to)| from != to));
        });
    }

    /// From now on each part that a node sends has a wrong bit in the byte at `place`, or in its last one.
    pub(crate) fn damage(&self, node: Number, place: usize) {
        self.0.faults.send_modify(|faults| _ = faults.damaging.insert(node, place));
    }

    /// Everything gets through again as it is, also what was held up.
    pub(crate) fn heal(&self) {
        self.0.faults.send_replace(Faults::default());
    }

    /// Has a node send and receive so much at most.
    pub(crate) fn limit(&self, node: Number, bytes_per_second: u64) {
        let [sends, receives] = [(); 2].map(|()| Lane::new(bytes_per_second));
        self.lines().insert(node, Arc::new(Line { sends, receives }));
    }

    /// Waits until what one asks of the other gets through.
    pub(crate) async fn until_open(&self, from: Number, to: Number) {
        let mut faults = self.0.faults.subscribe();
        let opened = faults.wait_for(|faults| !faults.silent.contains(&(from, to))).await.map(drop);
        opened.expect("the network is there");
    }

    /// In which byte of a part that a node sends a bit is wrong.
    pub(crate) fn damaged(&self, node: Number) -> Option<usize> {
        self.0.faults.borrow().damaging.get(&node).copied()
    }

    /// Waits until so many bytes are through from one node, or from elsewhere, to another one.
    pub(crate) async fn carry(&self, from: Option<Number>, to: Number, bytes: usize) {
        let (sender, receiver) = {
            let lines = self.lines();
            (from.and_then(|from| lines.get(&from).cloned()), lines.get(&to).cloned())
        };
        let lanes =
            [sender.as_ref().map(|line| &line.sends), receiver.as_ref().map(|line| &line.receives)];
        let through = lanes.into_iter().flatten().map(|lane| lane.through(bytes)).max();
        if let Some(through) = through {
            tokio::time::sleep_until(through).await;
        }
    }

    fn processes(&self) -> MutexGuard<'_, HashMap<Number, u32>> {
        self.0.processes.lock().expect("no test panics while it holds this")
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Number, Arc<Line>>> {
        self.0.lines.lock().expect("no test panics while it holds this")
    }
}

impl Lane {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free: Mutex::new(Instant::now()) }
    }

    /// When so many more bytes are through.
    fn through(&self, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut free = self.free.lock().expect("no test panics while it holds this");
        *free = (*free).max(Instant::now()) + takes;
        *free
    }
}

/// What the kernel calls the end at `near` of a connection to `far`.
fn socket_between(near: SocketAddr, far: SocketAddr) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists connections");
    let ends = [near, far].map(|end| format!(":{:04X}", end.port()));
    let candidates =
        table.lines().filter(|line| line.contains(&ends[0]) && line.contains(&ends[1]));
    candidates.map(|line| line.split_whitespace().collect::<Vec<&str>>()).find_map(|words| {
        let is_it = words[1].ends_with(&ends[0]) && words[2].ends_with(&ends[1]);
        is_it.then(|| format!("socket:[{}]", words[9]))
    })
}

fn has_open(process: u32, socket: &str) -> bool {
    // It may have ended.
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let mut targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    targets.any(|target| target.as_os_str() == socket)
}
