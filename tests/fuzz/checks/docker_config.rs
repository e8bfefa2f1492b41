//! Docker's `config.json`: what is found stands in the file under the name of the registry that was looked for,
//! and never under another's.

use millpond::{
    runtime::Secret,
    upstream::wire::{Credential, Found, docker_login},
};
use serde_json::Value;

/// What the registry is called.
const HOSTS: [&str; 2] = ["index.docker.io", "registry.house:5000"];

pub(crate) fn check(text: &str) {
    let hosts = HOSTS.map(str::to_owned);
    let found = docker_login(text, &hosts);
    let json = match serde_json::from_str::<Value>(text) {
        Ok(json) => json,
        Err(_) => {
            assert!(found.is_none(), "{text:?} is no JSON");
            return;
        }
    };
    let helpers = own(&json["credHelpers"]);
    match found {
        None => {}
        Some(_) if !json.is_object() => panic!("{text:?} is no object"),
        Some(Found::Nothing) => {
            assert!(helpers.is_empty() && json["credsStore"].is_null(), "{text:?}");
        }
        Some(Found::Helper(name)) => {
            let store = json["credsStore"].as_str().filter(|_| helpers.is_empty());
            let named = helpers.iter().filter_map(|helper| helper.as_str()).chain(store);
            assert!(named.into_iter().any(|named| named == name), "{name:?} of {text:?}");
        }
        Some(Found::Credential(credential)) => {
            assert!(helpers.is_empty(), "{text:?} has a helper");
            let entries = own(&json["auths"]);
            assert!(entries.iter().any(|entry| says(entry, &credential)), "{text:?}");
        }
    }
}

/// The values in a table whose keys are one of [`HOSTS`].
fn own(table: &Value) -> Vec<&Value> {
    let Some(table) = table.as_object() else { return Vec::new() };
    table.iter().filter(|(key, _)| is_own(key)).map(|(_, value)| value).collect()
}

/// Whether a key is the host, alone or with a scheme before it or a path behind it.
fn is_own(key: &str) -> bool {
    let rest = key.find("://").map_or(key, |at| &key[at + 3..]);
    HOSTS.iter().any(|host| rest == *host || rest.starts_with(&format!("{host}/")))
}

fn says(entry: &Value, credential: &Credential) -> bool {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let is_user = |username: &str| !text("auth").is_empty() || username == text("username");
    let is_secret = |secret: &Secret, key: &str| secret.expose() == text(key);
    match credential {
        Credential::Password { username, password } if text("auth").is_empty() => {
            text("identitytoken").is_empty() && is_user(username) && is_secret(password, "password")
        }
        // The text in base64 has both, and the first colon ends the name.
        Credential::Password { username, .. } => {
            text("identitytoken").is_empty() && !username.contains(':')
        }
        Credential::Identity { username, token } => {
            is_user(username) && !token.expose().is_empty() && is_secret(token, "identitytoken")
        }
        Credential::Anonymous | Credential::Token(_) => false,
    }
}
