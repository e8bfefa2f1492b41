//! The certificates in `tests/support/tls`, and a server that has them.

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// The file of a certificate or a key: `ca.pem`, `client.pem`, `client.key` and others.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls")).join(name)
}

/// A server for 127.0.0.1.
pub(crate) fn acceptor() -> TlsAcceptor {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificates = CertificateDer::pem_file_iter(file("server.pem")).expect("a file");
    let certificates = certificates.map(|found| found.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("a key");
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(certificates, key).expect("a certificate and its key");
    TlsAcceptor::from(Arc::new(config))
}
