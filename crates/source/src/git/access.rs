//! What a build's client lends for a remote: tokens, ssh agents, known hosts.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kiln_llb::source::Git as GitId;
use kiln_session::Group;
use tempfile::TempDir;
use url::Url;

use super::{command::Git, spawn::NULL};
use crate::{
    Error,
    http::{secret, shown},
};

/// A git that may do what the client may. What it needs goes when it is dropped.
pub(super) struct Access {
    pub(super) git: Git,
    _agent: Option<agent::Agent>,
    _known_hosts: Option<TempDir>,
}

impl Access {
    pub(super) async fn new(id: &GitId, sessions: &Group, git: Git) -> Result<Self, Error> {
        let mut git = hide_credentials(git, &id.remote);
        if let Some(header) = authorization(id, sessions).await {
            let secret = header.rsplit(' ').next().unwrap_or_default().to_owned();
            git = git
                .config(format!("http.{}.extraheader", scope(&id.remote)), format!("Authorization: {header}"))
                .hide(&secret, "xxxxx");
        }
        let mut ssh = format!("ssh -F {NULL}");
        let known_hosts = match &id.known_ssh_hosts {
            None => {
                ssh += " -o StrictHostKeyChecking=no";
                None
            }
            Some(lines) => {
                let dir = tempfile::tempdir().map_err(Error::io("making a folder for known hosts"))?;
                let file = dir.path().join("known_hosts");
                std::fs::write(&file, lines).map_err(Error::io("writing known hosts"))?;
                ssh += &format!(" -o UserKnownHostsFile={}", file.display());
                Some(dir)
            }
        };
        let mut agent = None;
        if let Some(wanted) = &id.mount_ssh_sock {
            let listening = agent::Agent::listen(sessions, wanted).await?;
            git = git.env("SSH_AUTH_SOCK", listening.socket());
            agent = Some(listening);
        }
        let git = git.env("GIT_SSH_COMMAND", ssh);
        Ok(Self { git, _agent: agent, _known_hosts: known_hosts })
    }
}

fn hide_credentials(git: Git, remote: &str) -> Git {
    let authority = |url: &str| -> Option<String> {
        let (_, rest) = url.split_once("://")?;
        Some(rest.split(['/', '?', '#']).next().unwrap_or_default().rsplit_once('@')?.0.to_owned())
    };
    match (authority(remote), authority(&shown(remote))) {
        (Some(secret), Some(instead)) => git.hide(&format!("{secret}@"), &format!("{instead}@")),
        _ => git,
    }
}

/// For which URLs a token is good: the remote's own, but on GitHub all, since one token serves private submodules too.
fn scope(remote: &str) -> &str {
    ["https://github.com/", "https://www.github.com/"]
        .into_iter()
        .find(|prefix| remote.starts_with(prefix))
        .unwrap_or(remote)
}

/// The value of the `Authorization` header from the client's secrets, those for the host first.
async fn authorization(id: &GitId, sessions: &Group) -> Option<String> {
    let url = Url::parse(&id.remote).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = format!("{}{port}", url.host_str()?);
    let (header, token) = (id.auth_header_secret.as_deref(), id.auth_token_secret.as_deref());
    let candidates = [
        (header.map(|name| format!("{name}.{host}")), false),
        (token.map(|name| format!("{name}.{host}")), true),
        (header.map(str::to_owned), false),
        (token.map(str::to_owned), true),
    ];
    for (name, is_token) in candidates {
        let Some(name) = name else { continue };
        match secret(sessions, &name).await {
            Ok(Some(value)) => {
                let value = value.trim_end_matches(['\r', '\n']);
                let basic = || BASE64_STANDARD.encode(format!("x-access-token:{value}"));
                return Some(if is_token { format!("basic {}", basic()) } else { value.to_owned() });
            }
            Ok(None) => {}
            Err(error) => {
                // Most repositories need none: git says so if this one does.
                tracing::debug!(%error, "asking for a git secret");
                return None;
            }
        }
    }
    None
}

#[cfg(unix)]
mod agent {
    use std::{path::PathBuf, sync::Arc};

    use kiln_session::{Group, Session, caller};
    use tempfile::TempDir;
    use tokio::{net::UnixListener, task::JoinHandle};

    use crate::Error;

    /// A socket that leads to the client's ssh agent.
    pub(super) struct Agent {
        dir: TempDir,
        task: JoinHandle<()>,
    }

    impl Agent {
        pub(super) async fn listen(sessions: &Group, id: &str) -> Result<Self, Error> {
            let wanted = format!("the ssh agent {id:?}");
            let session = sessions
                .any(&wanted, |session| async move {
                    caller::check_agent(&session, id).await?;
                    Ok(session)
                })
                .await
                .map_err(|error| match error.code() {
                    Some(tonic::Code::Unimplemented) => {
                        Error::Git(format!("no SSH key {id:?} forwarded from the client"))
                    }
                    _ => error.into(),
                })?;
            // The folder is for nobody else.
            let dir = tempfile::tempdir().map_err(Error::io("making a folder for an ssh agent's socket"))?;
            let listener = UnixListener::bind(dir.path().join("agent"))
                .map_err(Error::io("listening for an ssh agent"))?;
            let task = tokio::spawn(serve(listener, session, id.to_owned()));
            Ok(Self { dir, task })
        }

        pub(super) fn socket(&self) -> PathBuf {
            self.dir.path().join("agent")
        }
    }

    impl Drop for Agent {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    async fn serve(listener: UnixListener, session: Arc<Session>, id: String) {
        // Those under way end with this task.
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (session, id) = (session.clone(), id.clone());
            connections.spawn(async move {
                if let Err(error) = caller::forward_agent(&session, &id, stream).await {
                    tracing::debug!(%error, "ssh agent");
                }
            });
        }
    }
}

#[cfg(windows)]
mod agent {
    use std::path::PathBuf;

    use kiln_session::Group;

    use crate::Error;

    /// Not on this host.
    pub(super) enum Agent {}

    impl Agent {
        pub(super) async fn listen(_sessions: &Group, id: &str) -> Result<Self, Error> {
            let feature = "an ssh agent of the client (git.mountsshsock) on Windows";
            Err(Error::Feature { identifier: format!("ssh agent {id:?}"), feature })
        }

        pub(super) fn socket(&self) -> PathBuf {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_for_the_remote() {
        assert_eq!(scope("https://github.com/a/b.git"), "https://github.com/");
        assert_eq!(scope("https://github.com.evil/a"), "https://github.com.evil/a");
        assert_eq!(scope("https://host/a"), "https://host/a");
    }
}
