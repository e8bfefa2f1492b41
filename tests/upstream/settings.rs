//! The list `upstreams` of the configuration.

use std::{io, path::Path, time::Duration};

use millpond::{
    config::{Config, Loaded},
    runtime::{ByteSize, Environment, SettingsError},
    upstream::{CredentialsConfig, PlainHttp, UpstreamConfig},
};

/// Variables, and files that all hold a secret.
struct Given(&'static [(&'static str, &'static str)]);

impl Environment for Given {
    fn variables(&self) -> Vec<(String, String)> {
        self.0.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn read_file(&self, _path: &Path) -> io::Result<String> {
        Ok("s3cret\n".to_owned())
    }
}

fn parse(
    text: &str,
    variables: &'static [(&'static str, &'static str)],
) -> Result<Loaded, SettingsError> {
    Config::parse("m.yml", text, &Given(variables))
}

fn upstreams(text: &str) -> Vec<UpstreamConfig> {
    parse(text, &[]).unwrap_or_else(|error| panic!("{error}")).config.upstreams.upstreams
}

/// What is wrong, without the name of the file.
fn problems(text: &str) -> Vec<String> {
    let problems = parse(text, &[]).expect_err("something is wrong").problems;
    problems.iter().map(|problem| problem.to_string().replace("m.yml: ", "")).collect()
}

#[test]
fn a_name_is_enough() {
    let all = upstreams("upstreams: [{name: docker.io}, {name: ghcr.io}]");
    assert_eq!(all.len(), 2);
    assert_eq!(format!("{:?}", all[0].urls), "[https://registry-1.docker.io]");
    assert_eq!(all[0].aliases, ["registry-1.docker.io", "index.docker.io"]);
    assert_eq!(format!("{:?}", all[1].urls), "[https://ghcr.io]");
    assert_eq!(all[1].aliases, [""; 0]);
    let hub = UpstreamConfig::docker_hub();
    assert_eq!(format!("{hub:?}"), format!("{:?}", all[0]));
    assert_eq!(hub.policy.tag_ttl, Duration::from_mins(5));
    assert_eq!(hub.limits.connections, 64);
}

#[test]
fn everything_can_be_set() {
    let text = "
upstreams:
  - name: mirror
    aliases: [registry.example:5000]
    listen: '127.0.0.1:5001'
    hosts: hub.local
    url: ['http://10.0.0.1:5000', 'https://registry.example']
    username: alice
    password_file: /run/secrets/password
    auth_hosts: auth.example
    plain_http: allow
    ca_file: /ca.pem
    client_cert_file: /cert.pem
    client_key_file: /key.pem
    tag_ttl: 1m
    negative_ttl: 0s
    max_stale: 1d
    connections: 8
    bytes_per_second: 10MiB
    connect_timeout: 1s
    response_timeout: 2s
    stall_timeout: 3s
    repositories: {allow: [library/*, team/**], deny: team/secret}
";
    let all = upstreams(text);
    let one = &all[0];
    assert_eq!(one.urls.len(), 2);
    assert_eq!((one.listen.len(), one.hosts.as_slice()), (1, &["hub.local".to_owned()][..]));
    assert_eq!(one.plain_http, PlainHttp::Allow);
    assert_eq!(one.limits.bytes_per_second, Some(ByteSize::mebibytes(10)));
    assert_eq!(one.limits.stall_timeout, Duration::from_secs(3));
    assert_eq!(one.policy.negative_ttl, Duration::ZERO);
    assert!(one.repositories.has(&"team/app".parse().unwrap()));
    assert!(!one.repositories.has(&"team/secret".parse().unwrap()));
    match &one.credentials {
        CredentialsConfig::Password { username, password } => {
            assert_eq!((username.as_str(), password.expose()), ("alice", "s3cret"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_in_force_hides_secrets_and_can_be_read_again() {
    let text = "upstreams: [{name: a.example, username: alice, password: hunter2}, \
                {name: b.example, token: t0ken}, {name: c.example, docker_config: /c.json}, \
                {name: d.example, credential_helper: ecr-login}]";
    let loaded = parse(text, &[]).unwrap();
    assert!(loaded.effective.contains("upstreams:\n  -\n    name: a.example\n"));
    for secret in ["hunter2", "t0ken"] {
        assert!(!loaded.effective.contains(secret), "{}", loaded.effective);
        assert!(!format!("{loaded:?}").contains(secret));
    }
    let again = parse(&loaded.effective, &[]).unwrap();
    assert_eq!(again.effective, loaded.effective);
    assert_eq!(again.config.upstreams.upstreams.len(), 4);
}

#[test]
fn the_environment_sets_keys_of_items_and_the_whole_list() {
    let variables = &[
        ("MILLPOND_UPSTREAMS__0__USERNAME", "alice"),
        ("MILLPOND_UPSTREAMS__0__PASSWORD_FILE", "/password"),
        ("MILLPOND_UPSTREAMS__1__NAME", "ghcr.io"),
    ];
    let loaded = parse("upstreams: [{name: docker.io}]", variables).unwrap();
    let all = loaded.config.upstreams.upstreams;
    assert_eq!((all[0].name.as_str(), all[1].name.as_str()), ("docker.io", "ghcr.io"));
    assert!(matches!(all[0].credentials, CredentialsConfig::Password { .. }));
    let whole = &[("MILLPOND_UPSTREAMS", "[{name: quay.io, tag_ttl: 1h}, {name: ghcr.io}]")];
    let all = parse("upstreams: [{name: docker.io}]", whole).unwrap().config.upstreams.upstreams;
    assert_eq!((all[0].name.as_str(), all[1].name.as_str()), ("quay.io", "ghcr.io"));
    assert_eq!(all[0].policy.tag_ttl, Duration::from_hours(1));
    let error = parse(
        "",
        &[("MILLPOND_UPSTREAMS__0__NAME", "a.example"), ("MILLPOND_UPSTREAMS__0__TAG_TTL", "soon")],
    );
    let problem = error.unwrap_err().problems[0].to_string();
    assert!(
        problem.starts_with("MILLPOND_UPSTREAMS__0__TAG_TTL: upstreams.0.tag_ttl = \"soon\": ")
    );
}

#[test]
fn every_problem_is_told_at_once_and_by_its_place() {
    let text = "
upstreams:
  - {name: docker.io, tag_tll: 1m}
  - {name: index.docker.io}
  - {name: Team, url: 'https://a.example'}
  - {name: plain, url: 'http://a.example'}
  - {name: nowhere}
  - {name: path.example, url: 'https://a.example/v2'}
  - {name: both.example, username: a, password: b, token: c}
  - {name: half.example, username: a}
  - {name: cert.example, client_cert_file: /c}
  - {name: helper.example, credential_helper: ../evil}
  - {name: zero.example, connections: 0, bytes_per_second: 0}
  - {name: glob.example, repositories: {allow: 'a//b', denied: x}}
  - {url: 'https://a.example'}
";
    let told = problems(text);
    let expected = [
        "upstreams.0.tag_tll: no such key; known here: name, ",
        "upstreams.1.name = \"index.docker.io\": this name is taken by the upstream docker.io",
        "upstreams.2.name = \"Team\": the first component of ",
        "upstreams.3.url = \"http://a.example\": https is expected, or plain_http: allow",
        "upstreams.4.url: the address of the registry is expected",
        "upstreams.5.url = \"https://a.example/v2\": an address such as ",
        "upstreams.6.username: give one of username and password, token, ",
        "upstreams.7.username: give a username and a password, or neither",
        "upstreams.8.client_cert_file: give client_cert_file and client_key_file, or neither",
        "upstreams.9.credential_helper = \"../evil\": the part of ",
        "upstreams.10.connections = \"0\": from 1 to 4096 is expected",
        "upstreams.10.bytes_per_second = \"0\": more than nothing is expected",
        "upstreams.11.repositories.allow = \"a//b\": a pattern such as ",
        "upstreams.11.repositories.denied: no such key; known here: allow, deny",
        "upstreams.12.name: the first component of ",
    ];
    for beginning in expected {
        let is_told = told.iter().any(|line| line.starts_with(beginning));
        assert!(is_told, "{beginning}\nnot in {told:#?}");
    }
    // The aliases of Docker Hub under its second name, and an address that was refused is none.
    assert!(told.len() >= expected.len(), "{told:#?}");
}

#[test]
fn a_listener_for_others_must_be_accepted() {
    let text = "upstreams: [{name: docker.io, listen: '0.0.0.0:5001'}]";
    let told = problems(text);
    assert!(told[0].starts_with("upstreams.0.listen = \"0.0.0.0:5001\": "), "{told:?}");
    assert!(parse(&format!("{text}\napi: {{anonymous: anywhere}}"), &[]).is_ok());
}
