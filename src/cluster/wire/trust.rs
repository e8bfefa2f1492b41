//! By what nodes know each other.

use super::{seal::SharedSecret, tls::PeerCertificates};

/// By what nodes know each other.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By nothing. Only requests of the same machine are taken.
    Loopback,
    /// By a secret that all of them have. Others can read what is sent, but neither change it nor send it again; the
    /// bytes of parts are held against the digest of the blob anyway.
    Secret(SharedSecret),
    /// By certificates of an authority of their own, over TLS.
    Certificates(PeerCertificates),
}
