//! Credential helpers: programs `docker-credential-<name>` that keep passwords.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use serde::Deserialize;

use super::Credentials;

/// The user's name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper; `None` when it has nothing for the server.
///
/// # Errors
/// If the helper is not there, fails, or answers nonsense.
pub(super) fn get(helper: &str, server: &str) -> io::Result<Option<Credentials>> {
    let program = format!("docker-credential-{helper}");
    let failed = |problem: String| io::Error::other(format!("{program}: {problem}"));
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper may answer without reading; its answer then tells.
        drop(input.write_all(server.as_bytes()));
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("{} {}", output.status, text.trim())));
    }
    let answer: Answer = serde_json::from_str(&text).map_err(|_| failed("its answer is not JSON".into()))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credentials { identity_token: answer.secret, ..Credentials::default() },
        _ => Credentials { username: answer.username, password: answer.secret, ..Credentials::default() },
    }))
}
