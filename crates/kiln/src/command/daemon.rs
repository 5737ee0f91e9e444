//! Which daemon: one that is named, the one that runs here, or one in this process.

use std::path::PathBuf;

use crate::{
    args,
    buildctl::{Control, Global},
    local::Connection,
};
use clap::Args;
use kiln_client::{
    Error,
    connect::{self, Address, DEFAULT_ADDRESS},
};
use kiln_proto::{control::control_client::ControlClient, limits::Limited as _};

/// Flags that say which daemon.
#[derive(Args)]
pub(crate) struct Daemon {
    #[command(flatten)]
    remote: Global,
    /// Folder of the state when no daemon is running and none is named.
    #[arg(long, global = true)]
    root: Option<PathBuf>,
}

impl Daemon {
    /// A channel to it. A daemon that is named must be there; else the one at the usual place is taken, if it is there,
    /// or one is started in this process.
    pub(crate) async fn connect(&self) -> Result<Connection, Error> {
        if self.remote.named_address().is_some() {
            return Ok(Connection::remote(self.remote.connect().await?));
        }
        if self.root.is_none()
            && let Ok(Address::Local(path)) = Address::parse(DEFAULT_ADDRESS)
            && connect::connect_local(&path).await.is_ok()
        {
            return Ok(Connection::remote(self.remote.connect().await?));
        }
        Connection::local(&self.root()).await
    }

    /// Does something with its control service.
    pub(crate) async fn with_control<F>(&self, act: impl FnOnce(Control) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let connection = self.connect().await?;
        let result = act(ControlClient::new(connection.channel()).limited()).await;
        connection.close().await;
        result
    }

    /// The daemon's usual folder: the system's for the system's user, the user's own for others.
    fn root(&self) -> PathBuf {
        if let Some(root) = &self.root {
            return root.clone();
        }
        if is_superuser() {
            return PathBuf::from("/var/lib/buildkit");
        }
        let data = args::env("XDG_DATA_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let home = || std::env::home_dir().unwrap_or_default().join(".local/share");
        data.unwrap_or_else(home).join("buildkit")
    }
}

#[cfg(unix)]
fn is_superuser() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_superuser() -> bool {
    false
}
