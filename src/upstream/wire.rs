//! How the words of other registries are read: their headers, and Docker's file of logins. Nothing but this
//! module's parent uses it in the program; it is public so that the fuzz targets can try the readers on
//! everything that a stranger may write.

pub use super::{
    challenge::{BearerChallenge, Challenge, parse as challenges},
    credentials::Credential,
    docker_config::{Found, lookup as docker_login},
    link::next_of as next_page,
    quota::parse as rate_limit,
    remote::content_range,
};
