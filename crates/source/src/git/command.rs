//! Running git so that neither the host nor the repository has a say in how.
//!
//! | danger | in its place |
//! |---|---|
//! | the host's settings | an empty environment, no system and no user configuration |
//! | hooks, templates, file system monitors, credential helpers, prompts | switched off by name |
//! | remote helpers that run programs (`ext::…`) | a list of protocols; a local path only where we name it ourselves |
//! | refs that look like options | refused when they are parsed, and `--` before them |
//! | secrets in the list of processes | handed over as configuration in the environment |
//! | servers that never end | a limit on time and on output; the whole process group is ended |

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use kiln_engine::VertexProgress;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

use super::spawn::{Group, NULL, prepare};
use crate::Error;

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(3600);
/// The most output that is kept, in bytes; a repository can have this many refs and no more.
const MAX_OUTPUT: usize = 32 << 20;
/// The most error output that is kept, in bytes.
const MAX_ERRORS: usize = 64 << 10;

/// Settings of every command.
const CONFIG: &[(&str, &str)] = &[
    ("protocol.allow", "never"),
    ("protocol.http.allow", "always"),
    ("protocol.https.allow", "always"),
    ("protocol.ssh.allow", "always"),
    ("protocol.git.allow", "always"),
    // For what we fetch from ourselves; a submodule's URL is not the user's.
    ("protocol.file.allow", "user"),
    ("core.hooksPath", NULL),
    ("core.fsmonitor", "false"),
    ("core.askPass", ""),
    ("core.logAllRefUpdates", "false"),
    ("core.autocrlf", "false"),
    ("credential.helper", ""),
    ("init.templateDir", ""),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
    ("gc.autoDetach", "false"),
    ("maintenance.autoDetach", "false"),
    ("transfer.bundleURI", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "120"),
];

/// Proxies that the daemon was started with.
const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// How to run git for one source.
#[derive(Clone, Debug)]
pub(super) struct Git {
    dir: Option<PathBuf>,
    work_tree: Option<PathBuf>,
    config: Vec<(String, String)>,
    env: Vec<(&'static str, OsString)>,
    log: Option<VertexProgress>,
    /// Never shown: what it is, and what to show.
    hidden: Vec<(String, String)>,
}

/// What a command that failed said.
#[derive(Debug)]
pub(super) struct Failed {
    status: String,
    pub(super) errors: String,
}

impl Failed {
    /// As an error, with what was being done.
    pub(super) fn when(self, doing: &str) -> Error {
        let errors = self.errors.trim();
        Error::Git(format!(
            "{doing}: git {}: {}",
            self.status,
            if errors.is_empty() { "no message" } else { errors }
        ))
    }

    pub(super) fn says(&self, words: &[&str]) -> bool {
        words.iter().any(|words| self.errors.contains(words))
    }

    fn system(problem: impl ToString) -> Self {
        Self { status: "could not run".into(), errors: problem.to_string() }
    }
}

impl Git {
    pub(super) fn new(log: Option<VertexProgress>) -> Self {
        Self { dir: None, work_tree: None, config: Vec::new(), env: Vec::new(), log, hidden: Vec::new() }
    }

    /// Works on the repository in `dir`.
    pub(super) fn repository(&self, dir: &Path) -> Self {
        Self { dir: Some(dir.to_owned()), ..self.clone() }
    }

    /// Has its files in `dir`.
    pub(super) fn work_tree(&self, dir: &Path) -> Self {
        Self { work_tree: Some(dir.to_owned()), ..self.clone() }
    }

    pub(super) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    pub(super) fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((key.into(), value.into()));
        self
    }

    /// Shows `instead` wherever git writes `secret`.
    pub(super) fn hide(mut self, secret: &str, instead: &str) -> Self {
        if !secret.is_empty() && secret != instead {
            self.hidden.push((secret.to_owned(), instead.to_owned()));
        }
        self
    }

    /// Keeps what git writes to itself.
    pub(super) fn quiet(&self) -> Self {
        Self { log: None, ..self.clone() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let kept = std::iter::once(&"PATH").chain(PROXIES);
        command.envs(kept.filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", NULL)
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("HOME", NULL)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("LC_ALL", "C");
        prepare(&mut command);
        let own = self.config.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut count = 0;
        for (key, value) in CONFIG.iter().copied().chain(own) {
            command
                .env(format!("GIT_CONFIG_KEY_{count}"), key)
                .env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(tree) = &self.work_tree {
            command.arg("--work-tree").arg(tree).current_dir(tree);
        }
        if let Some(dir) = &self.dir {
            command.arg("--git-dir").arg(dir);
            if self.work_tree.is_none() {
                command.current_dir(dir);
            }
        }
        command.args(args);
        command
    }

    /// Runs a command; returns what it wrote.
    pub(super) async fn run(&self, args: &[&str]) -> Result<Vec<u8>, Failed> {
        match tokio::time::timeout(LIMIT, self.run_unlimited(args)).await {
            Ok(result) => result,
            Err(_) => Err(Failed::system(format!("no end after {} s", LIMIT.as_secs()))),
        }
    }

    /// As [`Git::run`], as one line of text.
    pub(super) async fn line(&self, args: &[&str]) -> Result<String, Failed> {
        Ok(String::from_utf8_lossy(&self.run(args).await?).trim().to_owned())
    }

    async fn run_unlimited(&self, args: &[&str]) -> Result<Vec<u8>, Failed> {
        let mut child = self.command(args).spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failed::system("there is no git on the PATH of the daemon"),
            _ => Failed::system(error),
        })?;
        let group = Group::of(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (output, errors, status) =
            tokio::join!(self.read(stdout, 1, MAX_OUTPUT), self.read(stderr, 2, MAX_ERRORS), child.wait());
        let status: ExitStatus = status.map_err(Failed::system)?;
        group.ended();
        let errors = self.without_secrets(&String::from_utf8_lossy(&errors.map_err(Failed::system)?));
        if !status.success() {
            return Err(Failed { status: status.to_string(), errors });
        }
        let output = output.map_err(Failed::system)?;
        if output.len() >= MAX_OUTPUT {
            return Err(Failed::system(format!("more than {MAX_OUTPUT} bytes of output")));
        }
        Ok(output)
    }

    /// Reads to the end, keeps no more than `limit` bytes, and shows them.
    async fn read(
        &self,
        from: Option<impl AsyncRead + Unpin>,
        stream: i64,
        limit: usize,
    ) -> std::io::Result<Vec<u8>> {
        let Some(mut from) = from else { return Ok(Vec::new()) };
        let (mut all, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return Ok(all);
            }
            let piece = &buffer[..read];
            if let Some(log) = &self.log {
                let shown = self.without_secrets(&String::from_utf8_lossy(piece));
                log.log(stream, shown.into_bytes());
            }
            let room = limit.saturating_sub(all.len()).min(read);
            all.extend_from_slice(&piece[..room]);
        }
    }

    fn without_secrets(&self, text: &str) -> String {
        self.hidden.iter().fold(text.to_owned(), |text, (secret, instead)| text.replace(secret, instead))
    }
}
