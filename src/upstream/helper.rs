//! Docker's credential helpers: programs that know a password.

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use super::{
    config::is_program,
    credentials::{Credential, CredentialsError, Login},
};
use crate::runtime::Secret;

/// Longest time a helper may take; those for clouds ask over the network.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest answer of a helper.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// What a helper says, with a failing status, when it knows nothing about the server.
const NOT_FOUND: &str = "credentials not found";

/// The name under which a helper gives an identity token instead of a password.
const IDENTITY: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<name> get` for the registry. The program gets this process's environment, and
/// what it writes to standard error is dropped.
pub(super) async fn ask(name: &str, login: &Login) -> Result<Credential, CredentialsError> {
    let program = format!("docker-credential-{name}");
    if !is_program(name) {
        return Err(CredentialsError::Helper { program, what: "its name is no program's" });
    }
    ask_program(program, login, PATIENCE).await
}

async fn ask_program(
    program: String,
    login: &Login,
    patience: Duration,
) -> Result<Credential, CredentialsError> {
    let Ok(answered) = timeout(patience, run(&program, &login.server)).await else {
        return Err(CredentialsError::Slow { program, after: patience });
    };
    let output =
        answered.map_err(|source| CredentialsError::Run { program: program.clone(), source })?;
    let failed = |what| CredentialsError::Helper { program: program.clone(), what };
    let text = String::from_utf8_lossy(&output.bytes);
    if !output.status.success() {
        let is_unknown = text.contains(NOT_FOUND);
        return if is_unknown { Ok(Credential::Anonymous) } else { Err(failed("it failed")) };
    }
    let answer: Answer =
        serde_json::from_str(&text).map_err(|_| failed("its answer is not understood"))?;
    let secret = Secret::new(answer.secret);
    Ok(if answer.username == IDENTITY {
        Credential::Identity { username: String::new(), token: secret }
    } else {
        Credential::Password { username: answer.username, password: secret }
    })
}

struct Output {
    status: std::process::ExitStatus,
    bytes: Vec<u8>,
}

/// Runs the program to its end. Dropping the future kills it.
async fn run(program: &str, server: &str) -> std::io::Result<Output> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let bytes = talk(&mut child, server).await?;
    Ok(Output { status: child.wait().await?, bytes })
}

async fn talk(child: &mut Child, server: &str) -> std::io::Result<Vec<u8>> {
    if let Some(mut stdin) = child.stdin.take() {
        // A program may answer without reading the question.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks one of the programs in `tests/upstream/helpers`.
    async fn ask(name: &str, patience: Duration) -> Result<Credential, CredentialsError> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstream/helpers");
        let login = Login { server: "registry.example:5000".to_owned(), hosts: Vec::new() };
        ask_program(format!("{folder}/docker-credential-{name}"), &login, patience).await
    }

    #[tokio::test]
    async fn a_helper_is_told_the_server_and_tells_the_password() {
        let username = "get of registry.example:5000".to_owned();
        let password = Secret::new("s3cret".to_owned());
        let expected = Credential::Password { username, password };
        assert_eq!(ask("password", PATIENCE).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_helper_may_tell_an_identity_token_or_know_nothing() {
        let token = Secret::new("t0ken".to_owned());
        let expected = Credential::Identity { username: String::new(), token };
        assert_eq!(ask("identity", PATIENCE).await.unwrap(), expected);
        assert_eq!(ask("unknown", PATIENCE).await.unwrap(), Credential::Anonymous);
    }

    #[tokio::test]
    async fn a_helper_that_fails_hangs_or_is_missing_is_an_error() {
        let failed = ask("failing", PATIENCE).await.unwrap_err();
        assert!(matches!(failed, CredentialsError::Helper { .. }), "{failed:?}");
        assert!(!failed.to_string().contains("s3cret"), "{failed}");
        let hanging = ask("hanging", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(hanging, CredentialsError::Slow { .. }), "{hanging:?}");
        let missing = ask("missing", PATIENCE).await.unwrap_err();
        assert!(matches!(missing, CredentialsError::Run { .. }), "{missing:?}");
        let login = Login { server: String::new(), hosts: Vec::new() };
        let path = super::ask("../../bin/true", &login).await.unwrap_err();
        assert!(matches!(path, CredentialsError::Helper { .. }), "{path:?}");
    }
}
