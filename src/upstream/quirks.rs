//! What is particular about known registries, in one table.
//!
//! A registry has a row only if the row has an effect. ghcr.io, quay.io, gcr.io and `pkg.dev`,
//! mcr.microsoft.com, ACR, nvcr.io and ECR, public and private, have none: they answer on one host, for
//! tokens too, and follow the specification in what this module asks of them.

/// What is particular about one registry.
#[derive(Debug)]
pub(super) struct Quirk {
    /// Names of the registry: as an upstream is called, and as the host of its URL.
    pub(super) hosts: &'static [&'static str],
    /// Where it is, if not at the name that people use.
    pub(super) url: Option<&'static str>,
    /// What names of one component are below: `nginx` is `library/nginx`.
    pub(super) default_namespace: Option<&'static str>,
    /// Hosts beside its own that issue its tokens.
    pub(super) auth_hosts: &'static [&'static str],
    /// What `docker login` calls it in `config.json` and towards credential helpers.
    pub(super) login: Option<&'static str>,
}

/// A registry without particularities.
static PLAIN: Quirk =
    Quirk { hosts: &[], url: None, default_namespace: None, auth_hosts: &[], login: None };

static TABLE: [Quirk; 3] = [
    Quirk {
        hosts: &["docker.io", "registry-1.docker.io", "index.docker.io"],
        url: Some("https://registry-1.docker.io"),
        default_namespace: Some("library"),
        auth_hosts: &["auth.docker.io"],
        login: Some("https://index.docker.io/v1/"),
    },
    Quirk {
        hosts: &["registry.gitlab.com"],
        url: None,
        default_namespace: None,
        auth_hosts: &["gitlab.com"],
        login: None,
    },
    Quirk {
        hosts: &["docker.elastic.co"],
        url: None,
        default_namespace: None,
        auth_hosts: &["docker-auth.elastic.co"],
        login: None,
    },
];

/// The row of the registry at `host`, or called so.
pub(super) fn of(host: &str) -> &'static Quirk {
    TABLE.iter().find(|quirk| quirk.hosts.contains(&host)).unwrap_or(&PLAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_an_effect_and_names_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for quirk in &TABLE {
            let has_effect = quirk.default_namespace.is_some()
                || !quirk.auth_hosts.is_empty()
                || quirk.url.is_some()
                || quirk.login.is_some();
            assert!(has_effect, "{quirk:?}");
            assert!(quirk.hosts.iter().all(|host| seen.insert(*host)), "{quirk:?}");
        }
        assert_eq!(of("docker.io").default_namespace, Some("library"));
        assert!(of("ghcr.io").hosts.is_empty());
    }
}
