//! Arguments that cannot be used, and what is said about them.

use crate::program::{command, run};

/// Exit status for arguments that cannot be used.
const UNUSABLE: i32 = 64;

#[tokio::test]
async fn every_argument_that_is_no_image_is_named() {
    let images = ["nginx", "Nginx:1", "https://ghcr.io/a", "10.0.0.1:x/a/b", "nginx:", "a@b"];
    run(&images).await.expect(
        UNUSABLE,
        &[
            "millpond: these arguments name no image:\n  \"Nginx:1\": ",
            "  \"https://ghcr.io/a\": an image is named without a scheme",
            "  \"10.0.0.1:x/a/b\": the registry 10.0.0.1:x is no host with a port",
            "  \"nginx:\": a tag has ",
            "  \"a@b\": a digest is ",
            "An image is [REGISTRY/]NAME[:TAG][@DIGEST], for example docker.io/nginx:1.27, ",
        ],
    );
}

#[tokio::test]
async fn options_that_cannot_be_used_are_named() {
    for (arguments, told) in [
        (&["--server", "127.0.0.1:5000", "a"][..], "a server is http://HOST[:PORT]"),
        (&["--server", "http://u:p@h", "a"], "a user is given with --username"),
        (&["--platform", "linux", "a"], "a platform is OS/ARCH or OS/ARCH/VARIANT"),
        (&["--concurrency", "0", "a"], "0 is not in 1..=256"),
        (&["--username", "u", "a"], "--password-file <FILE>"),
        (&["--password-file", "f", "a"], "--username <USER>"),
        (&["--username", "u", "--password-file", "/missing", "a"], "/missing cannot be read"),
        (&["--unknown", "a"], "unexpected argument '--unknown'"),
        (&[], "<IMAGE>..."),
    ] {
        run(arguments).await.expect(UNUSABLE, &[told]);
    }
}

#[tokio::test]
async fn the_help_says_what_a_name_without_a_registry_means() {
    for option in ["--help", "-h"] {
        let output = command(&[option]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0));
        let help = String::from_utf8(output.stdout).unwrap();
        for part in [
            "NOT docker.io/library/nginx",
            "SSL_CERT_FILE",
            "[default: http://127.0.0.1:5000]",
            "64 for",
        ] {
            assert!(help.contains(part), "{part:?} is not in:\n{help}");
        }
    }
}
