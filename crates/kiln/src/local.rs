//! A daemon in this process, for when none is running and none is named.
//!
//! Whoever holds the lock of a state folder listens at `<root>/kiln/kiln.sock`, so that a second process over the same folder
//! becomes a client of the first.

use std::{path::Path, time::Duration};

use kiln_client::{
    Error,
    connect::{self, Options},
};
use kiln_daemon::{Daemon, serve};
use tokio::sync::oneshot;
use tonic::transport::Channel;

use crate::holder::{Socket, socket_of};

/// How long the holder of a folder's lock may take until it listens.
const PATIENCE: Duration = Duration::from_secs(5);

/// A channel to a daemon, which may be in this process.
pub(crate) struct Connection {
    channel: Channel,
    local: Option<Local>,
}

struct Local {
    daemon: Daemon,
    /// Dropped, it ends the service of others.
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
    socket: Socket,
}

impl Connection {
    /// A daemon of its own.
    pub(crate) fn remote(channel: Channel) -> Self {
        Self { channel, local: None }
    }

    /// Connects to the process that holds the state in `root`, or becomes it.
    ///
    /// # Errors
    /// [`Error::Local`] when the state cannot be used.
    pub(crate) async fn local(root: &Path) -> Result<Self, Error> {
        let failed = |problem: String| Error::Local { root: root.display().to_string(), problem };
        let socket = socket_of(root);
        if let Some(channel) = join(&socket).await {
            return Ok(Self::remote(channel));
        }
        let mut config = crate::buildkitd::usual_config(root).map_err(|error| failed(error.to_string()))?;
        config.addresses.clear();
        let daemon = match Daemon::start(config).await {
            Ok(daemon) => daemon,
            // Somebody was faster.
            Err(kiln_daemon::Error::Store(kiln_store::Error::Locked { .. })) => {
                return wait_for(&socket)
                    .await
                    .map(Self::remote)
                    .ok_or_else(|| failed("another process holds it, and does not answer".to_owned()));
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let channel = daemon.connect().await.map_err(|error| failed(error.to_string()))?;
        Ok(Self { channel, local: Some(Local::new(daemon, root).await) })
    }

    /// The channel.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Ends the daemon, if it is in this process, when the builds of others have ended.
    pub(crate) async fn close(self) {
        drop(self.channel);
        if let Some(local) = self.local {
            local.close().await;
        }
    }
}

impl Local {
    /// Listens for others.
    async fn new(daemon: Daemon, root: &Path) -> Self {
        let (socket, listeners) = Socket::listen(root).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = daemon.clone();
        let serving = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(&served, listeners, stopped).await;
        });
        Self { daemon, stop, serving, socket }
    }

    async fn close(self) {
        let Self { daemon, stop, serving, socket } = self;
        drop(socket);
        drop(stop);
        daemon.idle().await;
        daemon.stop().await;
        // It ends when it is told to, which it was.
        drop(serving.await);
    }
}

/// A channel to whoever listens at `socket`.
async fn join(socket: &Path) -> Option<Channel> {
    if !socket.exists() {
        return None;
    }
    let address = format!("unix://{}", socket.display());
    connect::connect(&address, &Options { tls: None, timeout: Some(PATIENCE) }).await.ok()
}

/// The same, when it may take a moment until somebody listens.
async fn wait_for(socket: &Path) -> Option<Channel> {
    let wait = async {
        loop {
            if let Some(channel) = join(socket).await {
                return channel;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.ok()
}
