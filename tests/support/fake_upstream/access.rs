//! Who is let in: everybody, those with a password, or those with a token.

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::{HeaderMap, header};
use serde_json::json;

use super::content::{Answer, parameter};

/// Who is let in.
#[derive(Debug, Default)]
pub(crate) enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Whoever has this name and this password, as with an htpasswd file.
    Basic(&'static str, &'static str),
    /// Whoever has a token of this server, which is the registry's own at `/token`.
    Token(TokenServer),
}

/// A token server.
#[derive(Debug, Default)]
pub(crate) struct TokenServer {
    /// The address that challenges name. Default: the registry's own `/token`.
    pub(crate) realm: Option<String>,
    /// Who gets tokens; everybody, if this is not given.
    pub(crate) login: Option<(&'static str, &'static str)>,
    /// The identity token that can be exchanged by POST. Without it, POST is answered with 405.
    pub(crate) identity: Option<&'static str>,
    /// How many requests a token is good for. Default: any number.
    pub(crate) uses: Option<usize>,
    /// What is said about how long a token lives, in seconds.
    pub(crate) expires_in: Option<u64>,
}

/// Who is let in, and the tokens that were issued for that.
#[derive(Debug, Default)]
pub(super) struct Gate {
    access: Access,
    /// Each token with its scope and the requests it is still good for.
    tokens: HashMap<String, (String, usize)>,
    issued: usize,
}

impl Gate {
    /// Lets in these from now on, and forgets the tokens so far.
    pub(super) fn set(&mut self, access: Access) {
        self.access = access;
        self.tokens.clear();
    }

    /// The challenge for a request that is not let in; nothing if it is.
    pub(super) fn challenge(
        &mut self,
        url: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<String> {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match &self.access {
            Access::Open => None,
            Access::Basic(name, password) => {
                let is_let_in = sent == Some(basic(name, password).as_str());
                (!is_let_in).then(|| "Basic realm=\"fake, indeed\"".to_owned())
            }
            Access::Token(server) => {
                let scope = scope(path);
                let token = sent.and_then(|sent| sent.strip_prefix("Bearer "));
                if let Some((allowed, uses)) = token.and_then(|token| self.tokens.get_mut(token))
                    && *allowed == scope
                    && *uses > 0
                {
                    *uses -= 1;
                    return None;
                }
                let realm = server.realm.clone().unwrap_or_else(|| format!("{url}/token"));
                Some(format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"{scope}\""))
            }
        }
    }

    /// Answers a request for a token.
    pub(super) fn token(&mut self, query: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        let Access::Token(server) = &self.access else { return Answer::not_found() };
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let form = String::from_utf8_lossy(body).into_owned();
        if body.is_empty() {
            let needed = server.login.map(|(name, password)| basic(name, password));
            let is_let_in = needed.is_none_or(|needed| sent == Some(needed.as_str()));
            return if is_let_in { self.issue(query) } else { Answer::status(401) };
        }
        match server.identity {
            None => Answer::status(405),
            Some(identity) if parameter(&form, "refresh_token") == Some(identity) => {
                self.issue(&form)
            }
            Some(_) => Answer::status(401),
        }
    }

    fn issue(&mut self, form: &str) -> Answer {
        let Access::Token(server) = &self.access else { return Answer::not_found() };
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        let scope = parameter(form, "scope").unwrap_or_default();
        let scope = scope.replace("%3A", ":").replace("%2F", "/");
        self.tokens.insert(token.clone(), (scope, server.uses.unwrap_or(usize::MAX)));
        Answer::json(&match server.expires_in {
            Some(seconds) => json!({ "token": token, "expires_in": seconds }),
            None => json!({ "access_token": token }),
        })
    }
}

/// The scope of a request to a repository.
fn scope(path: &str) -> String {
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let ends = ["/blobs/", "/manifests/", "/referrers/", "/tags/"];
    let end = ends.iter().filter_map(|end| rest.rfind(end)).min().unwrap_or(rest.len());
    format!("repository:{}:pull", &rest[..end])
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}
