//! What goes wrong, and when.

use std::time::Duration;

/// What happens to an answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status with an empty body instead.
    Status(u16),
    /// Status 429 instead, with this `Retry-After`, if any.
    RateLimit(Option<String>),
    /// A redirection with this status to this address instead.
    Redirect(u16, String),
    /// No answer until [`FakeUpstream::release`](super::FakeUpstream::release).
    Hang,
    /// The connection ends instead.
    Disconnect,
    /// One header more, or another value for one.
    Header(&'static str, String),
    /// The whole, whatever range was asked for.
    IgnoreRange,
    /// No `Content-Length`: the body is chunked.
    NoLength,
    /// So many bytes of the body in each interval.
    Slow(usize, Duration),
    /// After so many bytes of the body nothing until
    /// [`FakeUpstream::release`](super::FakeUpstream::release).
    StallAfter(usize),
    /// After so many bytes of the body the connection ends.
    CutAfter(usize),
    /// The first byte of the body is another one.
    WrongBytes,
}

/// A [`Fault`] for some of the requests to come. All that fit a request are heeded; of those that put
/// something instead of the answer, the one that was given first.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    fault: Fault,
    on: String,
    skip: usize,
    times: usize,
}

impl Script {
    /// For every request from now on.
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault, on: String::new(), skip: 0, times: usize::MAX }
    }

    /// Only for requests that begin so: `"GET /v2/library/nginx/blobs/"`, with or without a query.
    pub(crate) fn on(self, beginning: impl Into<String>) -> Self {
        Self { on: beginning.into(), ..self }
    }

    /// Not for the first `requests` of those.
    pub(crate) fn skip(self, requests: usize) -> Self {
        Self { skip: requests, ..self }
    }

    /// Only so many times.
    pub(crate) fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }
}

/// The faults for the request `line`, and one time less for each of their scripts.
pub(super) fn take(scripts: &mut [Script], line: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for script in scripts.iter_mut().filter(|script| line.starts_with(&script.on)) {
        if script.skip > 0 {
            script.skip -= 1;
        } else if script.times > 0 {
            script.times -= 1;
            faults.push(script.fault.clone());
        }
    }
    faults
}
