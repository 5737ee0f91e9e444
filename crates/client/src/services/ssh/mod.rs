//! The client's ssh agents, which sign for the build without giving keys away.

mod agent;
mod key;
mod wire;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use futures::StreamExt as _;
use kiln_proto::{
    limits::Limited as _,
    sshforward::{
        BytesMessage, CheckAgentRequest, CheckAgentResponse,
        ssh_server::{Ssh, SshServer},
    },
};
use kiln_session::headers;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::{agent::Keys, key::PrivateKey};
use super::{Outgoing, failed};
use crate::{
    Error,
    connect::{Stream, connect_local},
    options::AgentConfig,
};

/// Messages that wait.
const QUEUE: usize = 16;
/// Bytes in one message.
const CHUNK: usize = 32 << 10;

/// One agent.
#[derive(Clone)]
enum Agent {
    /// An agent behind a socket, of which builds may use what reads and signs.
    Socket(PathBuf),
    /// Whatever is behind a socket, as it is.
    Raw(PathBuf),
    /// Keys that this process signs with.
    Keys(Arc<Keys>),
}

/// Agents by id.
#[derive(Clone, Default)]
pub struct Agents(Arc<BTreeMap<String, Agent>>);

impl Agents {
    /// The service for these agents; `default_socket` is what the environment names (`SSH_AUTH_SOCK`).
    ///
    /// # Errors
    /// [`Error::Usage`] for ids that come twice, paths that are not there, and keys that cannot be read.
    pub fn new(configs: Vec<AgentConfig>, default_socket: Option<PathBuf>) -> Result<SshServer<Self>, Error> {
        let mut agents = BTreeMap::new();
        for config in configs {
            let id = config.id.clone();
            let agent = resolve(config, default_socket.as_ref())?;
            if agents.insert(id.clone(), agent).is_some() {
                return Err(Error::Usage(format!("duplicate agent ID {id:?}")));
            }
        }
        Ok(SshServer::new(Self(Arc::new(agents))).limited())
    }

    fn agent(&self, id: &str) -> Result<&Agent, Status> {
        let id = if id.is_empty() { "default" } else { id };
        self.0.get(id).ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

fn resolve(config: AgentConfig, default_socket: Option<&PathBuf>) -> Result<Agent, Error> {
    let bad = |problem: String| Error::Usage(format!("ssh agent {:?}: {problem}", config.id));
    if config.paths.is_empty() {
        let socket =
            default_socket.ok_or_else(|| bad("no path is given, and SSH_AUTH_SOCK is not set".into()))?;
        return Ok(Agent::Socket(socket.clone()));
    }
    let mut keys = Vec::new();
    for path in &config.paths {
        if is_socket(path).map_err(|error| bad(format!("{}: {error}", path.display())))? {
            return match (config.paths.len(), config.raw) {
                (1, true) => Ok(Agent::Raw(path.clone())),
                (1, false) => Ok(Agent::Socket(path.clone())),
                _ => Err(bad("a socket must be the only path".into())),
            };
        }
        if config.raw {
            return Err(bad("raw mode is for sockets only".into()));
        }
        keys.push(PrivateKey::read(path).map_err(|problem| bad(format!("{}: {problem}", path.display())))?);
    }
    Ok(Agent::Keys(Arc::new(Keys::new(keys))))
}

#[cfg(unix)]
fn is_socket(path: &std::path::Path) -> std::io::Result<bool> {
    use std::os::unix::fs::FileTypeExt as _;
    Ok(std::fs::metadata(path)?.file_type().is_socket())
}

/// Pipes have names of their own kind.
#[cfg(windows)]
fn is_socket(path: &std::path::Path) -> std::io::Result<bool> {
    let name = path.to_string_lossy().replace('/', "\\");
    Ok(name.starts_with(r"\\.\pipe\"))
}

impl Agent {
    async fn open(&self) -> Result<Box<dyn Stream>, Status> {
        let connect = async |path: &PathBuf| {
            connect_local(path)
                .await
                .map_err(|error| failed(format!("failed to connect to {}: {error}", path.display())))
        };
        match self {
            Self::Raw(path) => Ok(Box::new(connect(path).await?)),
            Self::Socket(path) => {
                let (ours, theirs) = tokio::io::duplex(CHUNK);
                let upstream = connect(path).await?;
                // A broken connection ends both halves, which is all that the build needs to know.
                tokio::spawn(async move { drop(agent::filter(theirs, upstream).await) });
                Ok(Box::new(ours))
            }
            Self::Keys(keys) => {
                let (ours, theirs) = tokio::io::duplex(CHUNK);
                let keys = keys.clone();
                tokio::spawn(async move { drop(agent::serve(theirs, &keys).await) });
                Ok(Box::new(ours))
            }
        }
    }
}

#[tonic::async_trait]
impl Ssh for Agents {
    type ForwardAgentStream = Outgoing<BytesMessage>;

    async fn check_agent(
        &self,
        call: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&call.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id =
            call.metadata().get(headers::SSH_ID).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let stream = self.agent(&id)?.open().await?;
        let (messages, outgoing) = mpsc::channel(QUEUE);
        tokio::spawn(copy(stream, call.into_inner(), messages));
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }
}

/// Copies both ways until either side ends.
async fn copy(
    stream: Box<dyn Stream>,
    mut incoming: Streaming<BytesMessage>,
    outgoing: mpsc::Sender<Result<BytesMessage, Status>>,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let upward = async {
        while let Ok(Some(message)) = incoming.message().await {
            if writer.write_all(&message.data).await.is_err() {
                return;
            }
        }
        // The agent may have gone first.
        drop(writer.shutdown().await);
    };
    let downward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n) = reader.read(&mut buffer).await {
            let message = BytesMessage { data: bytes::Bytes::copy_from_slice(&buffer[..n]) };
            if n == 0 || outgoing.send(Ok(message)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = downward => {}
        () = async { upward.await; outgoing.closed().await } => {}
    }
}
