//! Connections and requests.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Seen, State,
    body::{FakeBody, body},
    content::Answer,
    lock,
    script::{self, Fault},
    tls::Tls,
};

/// Serves until it is dropped, and so does every connection.
pub(super) async fn serve(listener: TcpListener, tls: Tls, state: Arc<State>) {
    let acceptor = tls.acceptor();
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("connections are accepted");
        stream.set_nodelay(true).expect("a TCP option");
        let (state, acceptor) = (Arc::clone(&state), acceptor.clone());
        let service = service_fn(move |request| answer(Arc::clone(&state), request));
        connections.spawn(async move {
            // Clients may leave, scripts may cut connections, and handshakes are meant to fail in places.
            match acceptor {
                None => {
                    let http = http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                }
                Some(acceptor) => {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let http = auto::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<FakeBody>, io::Error> {
    let (head, incoming) = request.into_parts();
    let sent = incoming.collect().await.map_err(io::Error::other)?.to_bytes();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        version: head.version,
        headers: head.headers,
        body: sent,
    };
    let line = match seen.query.as_str() {
        "" => format!("{} {}", seen.method, seen.path),
        query => format!("{} {}?{query}", seen.method, seen.path),
    };
    let faults = script::take(&mut lock(&state.scripts), &line);
    let answer = compose(&state, &seen, &faults);
    state.seen.send_modify(|all| all.push(seen));
    for fault in &faults {
        match fault {
            Fault::Disconnect => return Err(io::Error::other("cut off, as the script says")),
            Fault::Hang => {
                let mut released = state.released.subscribe();
                let _ = released.wait_for(|released| *released).await;
            }
            _ => {}
        }
    }
    Ok(respond(&state, answer, &head.method, &faults))
}

/// The answer, as far as it is decided when the request comes.
fn compose(state: &State, seen: &Seen, faults: &[Fault]) -> Answer {
    if let Some(instead) = faults.iter().find_map(instead) {
        return instead;
    }
    let mut gate = lock(&state.gate);
    if seen.path == "/token" {
        return gate.token(&seen.query, &seen.headers, &seen.body);
    }
    if let Some(challenge) = gate.challenge(&state.url, &seen.path, &seen.headers) {
        return Answer::status(401).with("www-authenticate", &challenge);
    }
    let answer = lock(&state.content).answer(&seen.path, &seen.query);
    let range = seen.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let is_ignored = faults.iter().any(|fault| matches!(fault, Fault::IgnoreRange));
    match range {
        Some(range) if answer.status == StatusCode::OK && !is_ignored => answer.part(range),
        _ => answer,
    }
}

fn instead(fault: &Fault) -> Option<Answer> {
    match fault {
        Fault::Status(status) => Some(Answer::status(*status)),
        Fault::RateLimit(None) => Some(Answer::status(429)),
        Fault::RateLimit(Some(value)) => Some(Answer::status(429).with("retry-after", value)),
        Fault::Redirect(status, to) => Some(Answer::status(*status).with("location", to)),
        _ => None,
    }
}

fn respond(
    state: &Arc<State>,
    mut answer: Answer,
    method: &Method,
    faults: &[Fault],
) -> Response<FakeBody> {
    for fault in faults {
        match fault {
            Fault::Header(name, value) => {
                let value = HeaderValue::from_str(value).expect("a header value");
                answer.headers.insert(*name, value);
            }
            Fault::NoLength => {
                answer.headers.remove(header::CONTENT_LENGTH);
            }
            _ => {}
        }
    }
    let body = if *method == Method::HEAD {
        Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
    } else {
        body(state, answer.body, faults)
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
