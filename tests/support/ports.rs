//! Ports for nodes that have to know each other's before they start.

use std::{
    net::TcpListener,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below those that Linux gives to connections and to who asks for any.
const PORTS: Range<u16> = 12_000..32_000;

/// Ports that nobody uses at the moment, and that the system gives to nobody who does not ask for them by number.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = || {
        let place = std::process::id().wrapping_mul(97);
        let place = place.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        PORTS.start + (place % u32::from(PORTS.end - PORTS.start)) as u16
    };
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(next).filter(is_free).take(count).collect()
}
