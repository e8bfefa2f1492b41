//! Docker's `config.json`, as far as it says who somebody is.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;

use super::credentials::Credential;
use crate::runtime::Secret;

/// What Docker's file says about a registry.
#[derive(Debug)]
pub enum Found {
    /// Credentials.
    Credential(Credential),
    /// The program to ask, `docker-credential-<this>`.
    Helper(String),
    /// Nothing about the registry.
    Nothing,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What the file `text` says about a registry that is called by any of `hosts`, with their ports; `None` if it
/// is not of the form that Docker writes.
///
/// In this order: a helper for this registry, what stands in the file, and the helper for all, which
/// Docker leaves empty entries for.
#[must_use]
pub fn lookup(text: &str, hosts: &[String]) -> Option<Found> {
    let file: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let file: File = serde_json::from_value(file.into()).ok()?;
    let is_it = |key: &str| hosts.iter().any(|host| host == host_of(key));
    if let Some((_, helper)) = file.cred_helpers.iter().find(|(key, _)| is_it(key)) {
        return Some(Found::Helper(helper.clone()));
    }
    let entry = file.auths.iter().find(|(key, _)| is_it(key)).map(|(_, entry)| entry);
    if let Some(entry) = entry.filter(|entry| entry.says_something()) {
        return entry.credential().map(Found::Credential);
    }
    Some(file.creds_store.map_or(Found::Nothing, Found::Helper))
}

/// The host, with its port, of a key: docker writes `https://index.docker.io/v1/` as well as `ghcr.io`.
fn host_of(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or_default()
}

impl Entry {
    /// With a store, the entry is there and empty.
    fn says_something(&self) -> bool {
        [&self.auth, &self.username, &self.identitytoken].iter().any(|text| !text.is_empty())
    }

    fn credential(&self) -> Option<Credential> {
        let (username, password) = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            let decoded = BASE64_STANDARD.decode(self.auth.trim()).ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (username, password) = decoded.split_once(':')?;
            (username.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        Some(if self.identitytoken.is_empty() {
            Credential::Password { username, password: Secret::new(password) }
        } else {
            let token = Secret::new(self.identitytoken.clone());
            Credential::Identity { username, token }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hub() -> [String; 2] {
        ["index.docker.io", "docker.io"].map(str::to_owned)
    }

    fn password(found: Option<Found>) -> (String, String) {
        match found {
            Some(Found::Credential(Credential::Password { username, password })) => {
                (username, password.expose().to_owned())
            }
            other => panic!("no password: {other:?}"),
        }
    }

    #[test]
    fn entries_are_found_under_every_name_docker_writes() {
        let auth = BASE64_STANDARD.encode("alice:s3:cret");
        for key in ["https://index.docker.io/v1/", "index.docker.io", "docker.io"] {
            let text = format!(r#"{{"auths": {{"{key}": {{"auth": "{auth}"}}, "other": {{}}}}}}"#);
            assert_eq!(password(lookup(&text, &hub())), ("alice".into(), "s3:cret".into()));
        }
        let text = r#"{"auths": {"docker.io": {"username": "bob", "password": "x"}}}"#;
        assert_eq!(password(lookup(text, &hub())), ("bob".into(), "x".into()));
    }

    #[test]
    fn an_identity_token_is_told_from_a_password() {
        let auth = BASE64_STANDARD.encode("alice:");
        let text = format!(
            r#"{{"auths": {{"docker.io": {{"auth": "{auth}", "identitytoken": "t0k"}}}}}}"#
        );
        match lookup(&text, &hub()) {
            Some(Found::Credential(Credential::Identity { username, token })) => {
                assert_eq!((username.as_str(), token.expose()), ("alice", "t0k"));
            }
            other => panic!("no identity token: {other:?}"),
        }
    }

    #[test]
    fn the_helper_of_a_registry_goes_before_the_store_of_all() {
        let helper = |text: &str| match lookup(text, &hub()) {
            Some(Found::Helper(name)) => name,
            other => panic!("no helper: {other:?}"),
        };
        let both = r#"{"credsStore": "pass", "credHelpers": {"docker.io": "hub"}}"#;
        assert_eq!(helper(both), "hub");
        let store = r#"{"credsStore": "pass", "credHelpers": {"ghcr.io": "gh"}, "auths": {"docker.io": {}}}"#;
        assert_eq!(helper(store), "pass");
        assert!(matches!(lookup("{}", &hub()), Some(Found::Nothing)));
        assert!(lookup("[]", &hub()).is_none());
        assert!(lookup(r#"{"auths": {"docker.io": {"auth": "%"}}}"#, &hub()).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,60}") {
            let _ = lookup(&text, &hub());
        }
    }
}
