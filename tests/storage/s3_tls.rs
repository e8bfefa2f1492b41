//! An S3 server behind TLS, with a certificate of an authority that the system does not know.

use std::{io, path::PathBuf};

use millpond::{
    runtime::ByteBudget,
    storage::{
        Error, Storage,
        s3::{self, CaError, S3},
    },
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    certificates::{acceptor, file},
    fixture::{PART_BYTES, config, connect},
    s3_server::S3Server,
    suite::{assert_same, key, pattern, read, write},
};

/// Ends TLS before a server. It ends with the test.
struct Front {
    endpoint: String,
    _serving: JoinSet<()>,
}

impl Front {
    async fn before(server: &S3Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("https://{}", listener.local_addr().expect("a bound port"));
        let behind = server.endpoint()["http://".len()..].to_owned();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, behind));
        Self { endpoint, _serving: serving }
    }
}

async fn serve(listener: TcpListener, behind: String) {
    let acceptor = acceptor();
    let mut connections = JoinSet::new();
    while let Ok((stream, _peer)) = listener.accept().await {
        let (acceptor, behind) = (acceptor.clone(), behind.clone());
        // A client that goes away, or trusts nobody, is its own affair.
        connections.spawn(async move { relay(stream, &acceptor, &behind).await.ok() });
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(stream: TcpStream, acceptor: &TlsAcceptor, behind: &str) -> io::Result<()> {
    let mut outside = acceptor.accept(stream).await?;
    let mut inside = TcpStream::connect(behind).await?;
    copy_bidirectional(&mut outside, &mut inside).await?;
    Ok(())
}

/// The settings for a server behind a front, trusting what is in a file.
fn trusting(server: &S3Server, front: &Front, ca_file: Option<PathBuf>) -> s3::Config {
    let endpoint = Some(front.endpoint.clone());
    s3::Config { endpoint, ca_file, attempts: 1, ..config(server) }
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_the_configuration_names_it() {
    let server = S3Server::start().await;
    let front = Front::before(&server).await;
    let s3 = connect(trusting(&server, &front, Some(file("ca.pem")))).await;
    // One request, and several of an upload in parts.
    for (at, length) in [("small", 1000), ("large", PART_BYTES + 1000)] {
        let (at, bytes) = (key(at), pattern(length, 1));
        write(&s3, &at, Some(length as u64), [bytes.clone()]).await.unwrap();
        assert_same(&read(&s3, &at, None).await.unwrap(), &bytes, length);
    }
    assert!(!server.take_requests().is_empty());
    let stranger = connect(trusting(&server, &front, None)).await;
    let error = stranger.head(&key("small")).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(server.take_requests(), [""; 0]);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let server = S3Server::start().await;
    let front = Front::before(&server).await;
    for (name, told) in [
        ("missing.pem", "missing.pem cannot be read: "),
        ("server.key", "server.key holds no usable certificates"),
    ] {
        let config = trusting(&server, &front, Some(file(name)));
        let error = S3::connect(config, ByteBudget::new(48 << 20)).await.unwrap_err();
        let Error::Failed { source, .. } = error else { panic!("{error:?}") };
        let error = source.downcast_ref::<CaError>().expect("an error about certificates");
        let text = error.to_string();
        assert!(text.starts_with("storage.s3.ca_file: ") && text.contains(told), "{text}");
    }
}
