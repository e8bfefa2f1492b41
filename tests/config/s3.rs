//! A bucket that cannot be used with these settings, told before anything is asked of it.

use crate::program::{Outcome, Program, assert_has};

/// A bucket on a server that is not there: who asks it anything fails in another way.
const BUCKET: &str = "endpoint: 'https://127.0.0.1:1', bucket: pond, access_key: a, secret_key: b";

#[tokio::test]
async fn certificates_that_cannot_be_used_end_every_command() {
    for (name, told) in [
        ("missing.pem", "storage.s3.ca_file: missing.pem cannot be read: No such file"),
        ("empty.pem", "storage.s3.ca_file: empty.pem holds no usable certificates"),
    ] {
        let text = format!("storage: {{s3: {{{BUCKET}, ca_file: {name}}}}}\n");
        let program = Program::new().file("m.yml", &text).file("empty.pem", "");
        for command in ["check", "serve"] {
            let Outcome { code, stderr, .. } = program.run(&[command, "--config", "m.yml"]).await;
            assert_eq!(code, Some(1), "{stderr}");
            assert_has(&stderr, &[told]);
        }
    }
}

#[tokio::test]
async fn buffers_without_room_for_two_parts_end_every_command() {
    let text = format!("storage: {{s3: {{{BUCKET}, part: 64MiB}}}}\nmemory: {{buffers: 127MiB}}\n");
    let program = Program::new().file("m.yml", &text);
    for command in ["check", "serve"] {
        let Outcome { code, stderr, .. } = program.run(&[command, "--config", "m.yml"]).await;
        assert_eq!(code, Some(64), "{stderr}");
        let told = "m.yml: memory.buffers = \"127MiB\": at least 128MiB is expected, which is twice \
                    storage.s3.part";
        assert_has(&stderr, &[told]);
    }
}
