//! One line for each request, when its last byte is out.

use std::{net::SocketAddr, time::Duration};

use http::{Method, Request, StatusCode, header};
use tokio::time::Instant;

use super::metrics::{Finished, InFlight};
use crate::telemetry::ACCESS_TARGET;

/// Longest path and user agent that are logged, in bytes.
const LOGGED_MAX: usize = 512;

/// What is known of a request that is being answered. Logged and counted when it is dropped, which is
/// when the last byte is out or the client has gone.
pub(super) struct AccessRecord {
    started: Instant,
    /// Until there was an answer, with the first bytes of its body if it has many.
    answered_after: Duration,
    peer: SocketAddr,
    method: &'static str,
    /// Copied only if somebody will read it.
    logged: Option<Logged>,
    route: &'static str,
    status: u16,
    sent_bytes: u64,
    in_flight: Option<InFlight>,
}

/// What only the log tells.
struct Logged {
    path: String,
    user_agent: String,
}

impl Logged {
    fn of<B>(request: &Request<B>) -> Self {
        let user_agent =
            request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        Self { path: shortened(path), user_agent: shortened(user_agent.unwrap_or_default()) }
    }
}

impl AccessRecord {
    pub(super) fn begin<B>(peer: SocketAddr, request: &Request<B>) -> Self {
        let is_logged = tracing::enabled!(target: ACCESS_TARGET, tracing::Level::INFO);
        Self {
            started: Instant::now(),
            answered_after: Duration::ZERO,
            peer,
            method: method_name(request.method()),
            logged: is_logged.then(|| Logged::of(request)),
            route: "unknown",
            status: 0,
            sent_bytes: 0,
            in_flight: None,
        }
    }

    pub(super) fn routed(&mut self, route: &'static str) {
        self.route = route;
    }

    pub(super) fn answered(&mut self, status: StatusCode, in_flight: InFlight) {
        self.answered_after = self.started.elapsed();
        self.status = status.as_u16();
        self.in_flight = Some(in_flight);
    }

    pub(super) fn add_sent(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        let Self { method, route, status, sent_bytes, .. } = *self;
        if let Some(in_flight) = &self.in_flight {
            let seconds = elapsed.as_secs_f64();
            let first_byte_seconds = self.answered_after.as_secs_f64();
            let finished =
                Finished { route, method, status, sent_bytes, first_byte_seconds, seconds };
            in_flight.finish(&finished);
        }
        let Some(Logged { path, user_agent }) = &self.logged else { return };
        tracing::info!(
            target: ACCESS_TARGET,
            peer = %self.peer,
            method,
            path,
            status,
            sent_bytes,
            duration_ms = elapsed.as_millis(),
            user_agent,
            "request"
        );
    }
}

/// A bounded set of names, for metrics.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(LOGGED_MAX).collect()
}
