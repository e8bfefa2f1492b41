//! `millpond serve`, from its first line to its last.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, Command},
};

use crate::program::{Outcome, PATIENCE, Program, assert_has};

const REGISTRY: &str = "the registry is served here";
const ADMIN: &str = "health and metrics are served here";

/// The program on free ports, with its log as JSON.
fn on_free_ports() -> Program {
    Program::new()
        .variable("MILLPOND_API__LISTEN", "127.0.0.1:0")
        .variable("MILLPOND_API__ADMIN", "127.0.0.1:0")
        .variable("MILLPOND_UPSTREAMS", "[]")
        .variable("MILLPOND_LOG__FORMAT", "json")
}

/// A program that serves.
struct Serving {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Serving {
    fn start(program: &Program) -> Self {
        let mut child = program.command(&["serve"]).spawn().expect("it can be started");
        let stderr = child.stderr.take().expect("its standard error is a pipe");
        Self { child, log: BufReader::new(stderr).lines() }
    }

    /// Reads its log up to the event called `message`.
    async fn event(&mut self, message: &str) -> serde_json::Value {
        loop {
            let line = self.log.next_line().await.expect("its log can be read");
            let line = line.unwrap_or_else(|| panic!("it ended before it logged {message:?}"));
            let event: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event["message"] == message {
                return event;
            }
        }
    }

    async fn address(&mut self, message: &str) -> SocketAddr {
        let event = self.event(message).await;
        let address = event["address"].as_str().and_then(|text| text.parse().ok());
        address.unwrap_or_else(|| panic!("no address in {event}"))
    }

    /// Sends SIGTERM.
    async fn terminate(&mut self) {
        let id = self.child.id().expect("it has not ended").to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(sent.expect("kill can be run").success());
    }

    /// Waits for its end and returns the exit status.
    async fn end(mut self) -> Option<i32> {
        self.child.wait().await.expect("it can be waited for").code()
    }
}

/// The answer to one request, as it came.
async fn answer(address: SocketAddr, request: &str) -> io::Result<String> {
    answer_with(address, request, "X-Nothing: 0").await
}

/// The answer to one request that has another header.
async fn answer_with(address: SocketAddr, request: &str, header: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let headers = format!("Host: {address}\r\nConnection: close\r\n{header}\r\n");
    let text = format!("{request} HTTP/1.1\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The answer about readiness, once it is another than that the program is starting.
async fn readiness(admin: SocketAddr) -> String {
    loop {
        let answer = answer(admin, "GET /readyz").await.expect("readiness is answered");
        if !answer.ends_with("starting\n") {
            return answer;
        }
    }
}

/// Fails unless `work` ends in time.
async fn in_time(work: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, work).await.expect("it does what it should in time");
}

#[tokio::test]
async fn it_serves_until_it_is_told_to_stop() {
    in_time(async {
        let program = on_free_ports();
        let mut serving = Serving::start(&program);
        let registry = serving.address(REGISTRY).await;
        let admin = serving.address(ADMIN).await;
        assert_has(&answer(registry, "GET /v2/").await.unwrap(), &["HTTP/1.1 200 ", "\r\n\r\n{}"]);
        assert_has(&readiness(admin).await, &["HTTP/1.1 200 ", "ready\n"]);
        for (path, part) in [("/healthz", "alive\n"), ("/metrics", "millpond_http_requests_total")]
        {
            let answer = answer(admin, &format!("GET {path}")).await.unwrap();
            assert_has(&answer, &["HTTP/1.1 200 ", part]);
        }
        let request = serving.event("request").await;
        assert_eq!((&request["path"], &request["status"]), (&"/v2/".into(), &200.into()));
        serving.terminate().await;
        assert_eq!(serving.end().await, Some(0));
        assert!(program.folder().join("millpond-data").is_dir());
    })
    .await;
}

#[tokio::test]
async fn a_request_under_way_ends_before_the_process_does() {
    in_time(async {
        let program = on_free_ports();
        let mut serving = Serving::start(&program);
        let registry = serving.address(REGISTRY).await;
        let admin = serving.address(ADMIN).await;
        let begun = answer(registry, "POST /v2/team/app/blobs/uploads/").await.unwrap();
        let location = begun.lines().find_map(|line| line.strip_prefix("location: "));
        let location = location.unwrap_or_else(|| panic!("no location in {begun}"));
        let mut stream = TcpStream::connect(registry).await.unwrap();
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n");
        stream.write_all(format!("{head}01234").as_bytes()).await.unwrap();
        // Counted, so the request has arrived.
        while !answer(admin, "GET /metrics").await.unwrap().contains("_in_flight 1\n") {}

        serving.terminate().await;
        serving.event("stopping: no new connections, waiting for the requests under way").await;
        assert_has(&readiness(admin).await, &["HTTP/1.1 503 ", "stopping\n"]);
        assert_has(&answer(admin, "GET /healthz").await.unwrap(), &["HTTP/1.1 200 "]);
        stream.write_all(b"56789").await.unwrap();
        let mut received = String::new();
        stream.read_to_string(&mut received).await.unwrap();
        assert_has(&received, &["HTTP/1.1 202 ", "range: 0-9\r\n"]);
        assert_eq!(serving.end().await, Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off() {
    in_time(async {
        let program = on_free_ports().variable("MILLPOND_API__DRAIN_TIMEOUT", "100ms");
        let mut serving = Serving::start(&program);
        let registry = serving.address(REGISTRY).await;
        let admin = serving.address(ADMIN).await;
        let mut stream = TcpStream::connect(registry).await.unwrap();
        let head = "PUT /v2/a/manifests/b HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        while !answer(admin, "GET /metrics").await.unwrap().contains("_in_flight 1\n") {}
        serving.terminate().await;
        let cut_off = "the grace period is over; what was under way is cut off";
        serving.event(cut_off).await;
        assert_eq!(serving.end().await, Some(0));
    })
    .await;
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    in_time(async {
        let program = on_free_ports().variable("MILLPOND_API__HEADER_MAX", "16KiB");
        let mut serving = Serving::start(&program);
        let registry = serving.address(REGISTRY).await;
        for (value_bytes, status) in [(15_000, "200"), (17_000, "431")] {
            let header = format!("X-Padding: {}", "x".repeat(value_bytes));
            let answer = answer_with(registry, "GET /v2/", &header).await.unwrap();
            assert_has(answer.lines().next().unwrap_or_default(), &[status]);
        }
    })
    .await;
}

#[tokio::test]
async fn it_starts_while_the_bucket_is_out_of_reach() {
    in_time(async {
        let program = on_free_ports()
            .variable("MILLPOND_STORAGE__S3__ENDPOINT", "http://127.0.0.1:1")
            .variable("MILLPOND_STORAGE__S3__BUCKET", "images")
            .variable("MILLPOND_STORAGE__S3__ACCESS_KEY", "somebody")
            .variable("MILLPOND_STORAGE__S3__SECRET_KEY", "something")
            .variable("MILLPOND_STORAGE__S3__ATTEMPTS", "1");
        let mut serving = Serving::start(&program);
        let registry = serving.address(REGISTRY).await;
        let admin = serving.address(ADMIN).await;
        assert_has(&answer(admin, "GET /healthz").await.unwrap(), &["HTTP/1.1 200 "]);
        assert_has(&readiness(admin).await, &["HTTP/1.1 503 ", "the storage fails\n"]);
        let pull = answer(registry, "GET /v2/team/app/manifests/1").await.unwrap();
        assert_has(&pull, &["HTTP/1.1 503 ", "retry-after: ", "\"UNAVAILABLE\""]);
    })
    .await;
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let program = on_free_ports().variable("MILLPOND_API__ADMIN", &address);
    let Outcome { code, stderr, .. } = program.run(&["serve"]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert_has(&stderr, &[&format!("millpond: {address} cannot be listened on: ")]);
}
