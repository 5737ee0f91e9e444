//! Secrets and ssh agents of the clients, for one step.

use std::sync::Arc;

use bytes::Bytes;
use kiln_executor::{FileSpec, MountSource};
use kiln_proto::pb;
use kiln_session::{Group, caller};

use super::AGENT_PATIENCE;
use crate::OpError;

/// A secret, from whichever client has it.
async fn find(sessions: &Group, id: &str) -> Result<Option<Bytes>, OpError> {
    if id.is_empty() {
        return Err(OpError::Invalid("a secret has no id".into()));
    }
    let mut found = None;
    let slot = &mut found;
    // A client without the secret is passed over; that none has it is no failure of the asking.
    let asked = sessions
        .any(&format!("secret {id}"), |session| async move { caller::secret(&session, id).await })
        .await;
    match asked {
        Ok(secret) => *slot = secret,
        Err(kiln_session::Error::NoSession { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(found)
}

/// `NAME=value` for each secret of the environment.
pub(crate) async fn environment(sessions: &Group, secrets: &[pb::SecretEnv]) -> Result<Vec<String>, OpError> {
    let mut env = Vec::with_capacity(secrets.len());
    for secret in secrets {
        match find(sessions, &secret.id).await? {
            Some(value) => env.push(format!("{}={}", secret.name, String::from_utf8_lossy(&value))),
            None if secret.optional => {}
            None => return Err(OpError::NoSecret { id: secret.id.clone() }),
        }
    }
    Ok(env)
}

/// A secret as a file; `None` when it is optional and not there.
pub(super) async fn mount(sessions: &Group, mount: &pb::Mount) -> Result<Option<MountSource>, OpError> {
    let options = mount
        .secret_opt
        .as_ref()
        .ok_or_else(|| OpError::Invalid(format!("secret mount {} has no options", mount.dest)))?;
    let Some(value) = find(sessions, &options.id).await? else {
        return if options.optional { Ok(None) } else { Err(OpError::NoSecret { id: options.id.clone() }) };
    };
    Ok(Some(MountSource::File(FileSpec {
        content: Arc::from(value.as_ref()),
        mode: options.mode & 0o777,
        uid: options.uid,
        gid: options.gid,
    })))
}

/// The socket of an ssh agent, which forwards to a client for as long as this lives.
#[derive(Debug)]
pub(super) struct AgentSocket {
    path: std::path::PathBuf,
    accept: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl AgentSocket {
    pub(super) fn source(&self) -> MountSource {
        MountSource::Host(self.path.clone())
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// A socket for the client's agent; `None` when it is optional and there is none.
pub(super) async fn agent(sessions: &Group, mount: &pb::Mount) -> Result<Option<AgentSocket>, OpError> {
    let options = mount.ssh_opt.clone().unwrap_or_default();
    let id = if options.id.is_empty() { "default".to_owned() } else { options.id.clone() };
    let wanted = format!("ssh agent {id}");
    let checked = sessions.any(&wanted, |session| {
        let id = &id;
        async move {
            let late = |_| tonic_deadline(id);
            tokio::time::timeout(AGENT_PATIENCE, caller::check_agent(&session, id)).await.map_err(late)??;
            Ok(session)
        }
    });
    match checked.await {
        Ok(session) => listen(session, id, &options).map(Some),
        Err(_) if options.optional => Ok(None),
        Err(kiln_session::Error::NoSession { .. }) => Err(OpError::NoAgent { id }),
        Err(error) if error.code().is_some() => {
            tracing::debug!(%error, id, "the client has no such ssh agent");
            Err(OpError::NoAgent { id })
        }
        Err(error) => Err(error.into()),
    }
}

fn tonic_deadline(id: &str) -> kiln_session::Error {
    kiln_session::Error::Io {
        what: format!("asking for ssh agent {id}"),
        source: std::io::Error::from(std::io::ErrorKind::TimedOut),
    }
}

#[cfg(unix)]
fn listen(
    session: Arc<kiln_session::Session>,
    id: String,
    options: &pb::SshOpt,
) -> Result<AgentSocket, OpError> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let failed = |what: &'static str| move |source| OpError::Io { what: what.into(), source };
    let dir = tempfile::Builder::new()
        .prefix("kiln-ssh-")
        .tempdir()
        .map_err(failed("making a folder for an ssh agent"))?;
    let path = dir.path().join("agent.sock");
    let listener = tokio::net::UnixListener::bind(&path).map_err(failed("opening an ssh agent's socket"))?;
    chown(&path, Some(options.uid), Some(options.gid))
        .map_err(failed("giving away an ssh agent's socket"))?;
    let mode = std::fs::Permissions::from_mode(options.mode & 0o777);
    std::fs::set_permissions(&path, mode).map_err(failed("setting the mode of an ssh agent's socket"))?;
    let accept = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (session, id) = (session.clone(), id.clone());
            tokio::spawn(async move {
                if let Err(error) = caller::forward_agent(&session, &id, stream).await {
                    tracing::debug!(%error, id, "an ssh agent's connection failed");
                }
            });
        }
    });
    Ok(AgentSocket { path, accept, _dir: dir })
}

#[cfg(not(unix))]
fn listen(
    _session: Arc<kiln_session::Session>,
    _id: String,
    _options: &pb::SshOpt,
) -> Result<AgentSocket, OpError> {
    Err(OpError::Unsupported("an ssh mount on this system".into()))
}
