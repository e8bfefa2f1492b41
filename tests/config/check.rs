//! `millpond check`, and what every command says about a configuration that cannot be used.

use std::fs;

use crate::{
    keys::in_force,
    program::{Outcome, Program, UNUSABLE, assert_has},
};

const SECRET: &str = "hunter2-and-more";

/// A bucket on a server that is not there, asked for once.
fn bucket_on_nothing() -> String {
    format!(
        "storage:\n  s3:\n    endpoint: http://127.0.0.1:1\n    bucket: of-the-file\n    \
         access_key: somebody\n    secret_key: {SECRET}\n    attempts: 1\n"
    )
}

#[tokio::test]
async fn a_good_configuration_is_shown_in_full() {
    let program = Program::new().file("m.yml", "registry: {delete: false}\n");
    let Outcome { code, stdout, stderr } = program.run(&["check", "--config", "m.yml"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_has(&stdout, &["  delete: false\n", "  listen: [127.0.0.1:5000]\n"]);
    assert_has(
        &stdout,
        &["# The configuration is good, and directory ./millpond-data can be used.\n"],
    );
    assert_eq!(in_force(&stdout), in_force("registry: {delete: false}"));
}

#[tokio::test]
async fn trying_the_storage_leaves_nothing_in_it() {
    let program = Program::new().variable("MILLPOND_STORAGE__DIRECTORY__PATH", "here");
    let Outcome { code, stderr, .. } = program.run(&["check"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(program.folder().join("here").is_dir());
    let mut folders = vec![program.folder().join("here")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            assert!(path.is_dir(), "{} was left behind", path.display());
            folders.push(path);
        }
    }
}

#[tokio::test]
async fn certificates_of_an_upstream_are_read() {
    for (name, told) in [
        ("missing.pem", "upstream quay.io: missing.pem cannot be read: No such file"),
        ("empty.pem", "upstream quay.io: empty.pem holds no usable certificate"),
    ] {
        let text = format!("upstreams: [{{name: quay.io, ca_file: {name}}}]\n");
        let program = Program::new().file("m.yml", &text).file("empty.pem", "nonsense");
        for command in ["check", "serve"] {
            let Outcome { code, stderr, .. } = program.run(&[command, "--config", "m.yml"]).await;
            assert_eq!(code, Some(1), "{stderr}");
            assert_has(&stderr, &[told]);
        }
    }
}

#[tokio::test]
async fn the_certificate_of_the_registry_is_read() {
    for (cert_file, key_file, told) in [
        (
            "missing.pem",
            "server.key",
            "api.tls.cert_file: missing.pem cannot be read: No such file",
        ),
        ("server.pem", "missing.key", "api.tls.key_file: missing.key cannot be read: No such file"),
        ("server.key", "server.key", "api.tls.cert_file: server.key holds no usable certificate"),
        ("empty", "server.key", "api.tls.cert_file: empty holds no usable certificate"),
        ("server.pem", "server.pem", "api.tls.key_file: server.pem holds no usable key"),
        ("server.pem", "client.key", "api.tls: server.pem and client.key cannot be used together"),
    ] {
        let text = format!("api: {{tls: {{cert_file: {cert_file}, key_file: {key_file}}}}}\n");
        let program = with_certificate().file("m.yml", &text);
        for command in ["check", "serve"] {
            let Outcome { code, stderr, .. } = program.run(&[command, "--config", "m.yml"]).await;
            assert_eq!(code, Some(UNUSABLE), "{command}: {stderr}");
            assert_has(&stderr, &[&format!("millpond: {told}")]);
        }
    }
    let text = "api: {tls: {cert_file: server.pem, key_file: server.key}}\n";
    let program = with_certificate().file("m.yml", text);
    let Outcome { code, stdout, stderr } = program.run(&["check", "--config", "m.yml"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_has(&stdout, &["    cert_file: server.pem\n    key_file: server.key\n", "is good"]);
}

/// The program with files to name in `api.tls`.
fn with_certificate() -> Program {
    Program::new()
        .file("server.pem", include_str!("../support/tls/server.pem"))
        .file("server.key", include_str!("../support/tls/server.key"))
        .file("client.key", include_str!("../support/tls/client.key"))
        .file("empty", "")
}

#[tokio::test]
async fn a_certificate_without_its_key_is_a_problem_and_so_is_a_key_alone() {
    let wanted = "give the paths of cert_file and key_file, or neither";
    for key in ["cert_file", "key_file"] {
        let told = format!("api.tls.{key} = \"server.pem\": {wanted}\n");
        let text = format!("api: {{tls: {{{key}: server.pem}}}}\n");
        let program = with_certificate().file("m.yml", &text);
        let name = format!("MILLPOND_API__TLS__{}", key.to_uppercase());
        let by_variable = with_certificate().file("m.yml", "").variable(&name, "server.pem");
        for command in ["check", "serve"] {
            for (program, origin) in [(&program, "m.yml"), (&by_variable, name.as_str())] {
                let Outcome { code, stderr, .. } =
                    program.run(&[command, "--config", "m.yml"]).await;
                assert_eq!(code, Some(UNUSABLE), "{command}: {stderr}");
                assert_has(&stderr, &[&format!("  {origin}: {told}")]);
            }
        }
    }
}

#[tokio::test]
async fn every_problem_is_told_at_once() {
    let text = "log: {level: loud}\n\
                api: {listen: '0.0.0.0:5000', connections: 0, lisen: 1}\n\
                storage: {directory: {path: a}, s3: {bucket: b}}\n\
                memory: {buffers: 1MiB}\n\
                extra: 1\n";
    let program = Program::new().file("m.yml", text).variable("MILLPOND_API__BODY_TIMEOUT", "soon");
    for command in ["check", "serve"] {
        let Outcome { code, stdout, stderr } = program.run(&[command, "--config", "m.yml"]).await;
        assert_eq!(code, Some(UNUSABLE), "{stderr}");
        assert_eq!(stdout, "");
        let expected = [
            "the configuration has 8 problems:\n",
            "  m.yml: log.level = \"loud\": one of error, warn, info, debug, trace is expected\n",
            "  m.yml: api.listen = \"0.0.0.0:5000\": ",
            "  m.yml: api.connections = \"0\": from 1 to 1048576 is expected\n",
            "  m.yml: api.lisen: no such key; known here: listen, admin, ",
            "  m.yml: storage.s3: give either storage.directory or storage.s3, not both\n",
            "  m.yml: memory.buffers = \"1MiB\": from 16MiB to 1TiB is expected\n",
            "  m.yml: extra: no such key; known here: log, api, storage, registry, memory, cache, cluster, upstreams\n",
            "  MILLPOND_API__BODY_TIMEOUT: api.body_timeout = \"soon\": a duration such as ",
        ];
        assert_has(&stderr, &expected);
        assert_eq!(stderr.lines().count(), expected.len(), "{stderr}");
    }
    assert!(!program.folder().join("a").exists());
}

#[tokio::test]
async fn values_beyond_all_reason_are_refused() {
    // Each one is a number, and more than the libraries below can count or wait.
    let cases = [
        ("api: {connections: 18446744073709551615}", "api.connections"),
        ("registry: {known_for: 400000d}", "registry.known_for"),
        ("registry: {uploads: {age: 400000d}}", "registry.uploads.age"),
    ];
    for (text, key) in cases {
        let program = Program::new().file("m.yml", text);
        let Outcome { code, stderr, .. } = program.run(&["check", "--config", "m.yml"]).await;
        assert_eq!(code, Some(UNUSABLE), "{text}: {stderr}");
        assert_has(&stderr, &[&format!("  m.yml: {key} = ")]);
    }
}

#[tokio::test]
async fn a_problem_is_blamed_on_the_variable_it_came_from() {
    let cases = [
        ("MILLPOND_API__CONNECTIONS", "0", "api.connections"),
        ("MILLPOND_API__LISTEN", "0.0.0.0:5000", "api.listen"),
        ("MILLPOND_MEMORY__BUFFERS", "1MiB", "memory.buffers"),
    ];
    for (name, value, key) in cases {
        let program = Program::new().file("m.yml", "").variable(name, value);
        let Outcome { code, stderr, .. } = program.run(&["check", "--config", "m.yml"]).await;
        assert_eq!(code, Some(UNUSABLE), "{name}={value}: {stderr}");
        assert_has(&stderr, &[&format!("  {name}: {key} = {value:?}: ")]);
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_no_yaml_is_told() {
    let program = Program::new().file("m.yml", "api: [\n").file("list.yml", "- a\n");
    let cases = [
        ("none.yml", "the configuration file none.yml cannot be read: "),
        ("m.yml", "m.yml: not valid YAML: "),
        ("list.yml", "list.yml: the file must hold keys and values"),
    ];
    for (file, expected) in cases {
        let Outcome { code, stderr, .. } = program.run(&["check", "--config", file]).await;
        assert_eq!(code, Some(UNUSABLE), "{stderr}");
        assert_has(&stderr, &[expected]);
    }
}

#[tokio::test]
async fn an_unknown_variable_is_an_error() {
    let program = Program::new().variable("MILLPOND_STORAGE__S3__BUKET", "images");
    let Outcome { code, stderr, .. } = program.run(&["check"]).await;
    assert_eq!(code, Some(UNUSABLE), "{stderr}");
    assert_has(
        &stderr,
        &["  MILLPOND_STORAGE__S3__BUKET: storage.s3.buket: no such key; known here: bucket, "],
    );
}

#[tokio::test]
async fn a_variable_wins_over_the_file_and_a_bucket_out_of_reach_is_told() {
    let program = Program::new()
        .file("m.yml", &bucket_on_nothing())
        .variable("MILLPOND_STORAGE__S3__BUCKET", "of-the-environment");
    let Outcome { code, stdout, stderr } = program.run(&["check", "--config", "m.yml"]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert_has(&stdout, &["    bucket: of-the-environment\n", "    secret_key: (hidden)\n"]);
    assert!(!stdout.contains("of-the-file") && !stdout.contains("is good"), "{stdout}");
    assert_has(&stderr, &["millpond: storage failed to put ", "it does not answer"]);
    assert!(!format!("{stdout}{stderr}").contains(SECRET), "{stdout}{stderr}");
}

#[tokio::test]
async fn secrets_are_never_shown() {
    let spoilt = [
        // A value that is not accepted, beside the secret.
        bucket_on_nothing() + "    attempts_: 1\n",
        // The secret under a key that does not exist.
        bucket_on_nothing().replace("secret_key", "secretkey"),
        // Twice.
        bucket_on_nothing() + "    secret_key_file: key.txt\n",
        // YAML that breaks off right after it, and on its line.
        bucket_on_nothing() + "  oops\n",
        bucket_on_nothing().replace(SECRET, &format!("\"{SECRET}")),
    ];
    for text in spoilt {
        let program = Program::new().file("m.yml", &text);
        let Outcome { code, stdout, stderr } = program.run(&["check", "--config", "m.yml"]).await;
        assert_eq!(code, Some(UNUSABLE), "{text}\n{stderr}");
        assert!(!format!("{stdout}{stderr}").contains(SECRET), "{text}\nshows\n{stdout}{stderr}");
    }
}

#[tokio::test]
async fn secrets_may_stand_in_files() {
    let text =
        bucket_on_nothing().replace(&format!("secret_key: {SECRET}"), "secret_key_file: key");
    let program = Program::new().file("m.yml", &text).file("key", SECRET);
    let Outcome { code, stdout, stderr } = program.run(&["check", "--config", "m.yml"]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert_has(&stdout, &["    secret_key_file: key\n"]);
    assert!(!format!("{stdout}{stderr}").contains(SECRET), "{stdout}{stderr}");
}

#[tokio::test]
async fn a_storage_that_cannot_be_written_is_told() {
    // Below a file there is no folder, whoever asks.
    let program = Program::new()
        .file("file", "")
        .variable("MILLPOND_STORAGE__DIRECTORY__PATH", "file/below")
        .variable("MILLPOND_API__LISTEN", "127.0.0.1:0")
        .variable("MILLPOND_API__ADMIN", "127.0.0.1:0");
    for command in ["check", "serve"] {
        let Outcome { code, stderr, .. } = program.run(&[command]).await;
        assert_eq!(code, Some(1), "{stderr}");
        assert_has(&stderr, &["millpond: ", "file/below"]);
    }
}

#[tokio::test]
async fn version_and_help_are_shown() {
    let program = Program::new();
    let shown = program.run(&["--version"]).await;
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    assert_eq!(shown.stdout, format!("millpond {}\n", env!("CARGO_PKG_VERSION")));
    let shown = program.run(&["--help"]).await;
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    let parts =
        ["Usage: millpond <COMMAND>", "serve", "check", "127.0.0.1:5000", "./millpond-data"];
    assert_has(&shown.stdout, &parts);
    for command in ["serve", "check"] {
        let shown = program.run(&[command, "--help"]).await;
        assert_eq!(shown.code, Some(0));
        assert_has(&shown.stdout, &["--config <FILE>", "MILLPOND_STORAGE__S3__BUCKET"]);
    }
    let nonsense = program.run(&["sevre"]).await;
    assert_eq!(nonsense.code, Some(2), "{}", nonsense.stderr);
    assert_has(&nonsense.stderr, &["sevre", "serve"]);
}
