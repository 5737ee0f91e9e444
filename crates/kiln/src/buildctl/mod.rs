//! `buildctl`, the client of BuildKit's daemon: commands, flags and output are its own.

pub(crate) mod build;
mod debug;
mod dial_stdio;
pub(crate) mod du;
mod format;
pub(crate) mod prune;
mod prune_histories;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use kiln_client::{
    Error,
    connect::{self, DEFAULT_ADDRESS, Options, TlsFiles},
};
use kiln_proto::{
    control::{InfoRequest, control_client::ControlClient},
    limits::Limited as _,
};
use tonic::{Code, transport::Channel};

use crate::{args, runtime};

/// What `--version` says.
const VERSION: &str = concat!("github.com/moby/buildkit v", env!("CARGO_PKG_VERSION"), "+kiln");

/// Build utility.
#[derive(Parser)]
#[command(name = "buildctl", version = VERSION, disable_version_flag = true, disable_help_subcommand = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// Print the version.
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags of all commands.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Enable debug output in logs.
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    debug: bool,
    /// Address of the daemon [$BUILDKIT_HOST]. `unix://`, `tcp://`, `npipe://`, `ssh://`, `docker-container://`,
    /// `podman-container://`, `nerdctl-container://` and `kube-pod://` are understood.
    #[arg(long, global = true)]
    addr: Option<String>,
    /// Log formatter: json or text.
    #[arg(long, global = true, default_value = "text", value_parser = ["json", "text"])]
    log_format: String,
    /// Server name for certificate validation, in place of the host of the address.
    #[arg(long, global = true)]
    tlsservername: Option<String>,
    /// CA certificate for validation.
    #[arg(long, global = true)]
    tlscacert: Option<PathBuf>,
    /// Client certificate.
    #[arg(long, global = true)]
    tlscert: Option<PathBuf>,
    /// Client key.
    #[arg(long, global = true)]
    tlskey: Option<PathBuf>,
    /// Directory containing CA certificate, client certificate, and client key.
    #[arg(long, global = true)]
    tlsdir: Option<PathBuf>,
    /// Timeout of connecting to the daemon, in seconds.
    #[arg(long, global = true, default_value_t = 5)]
    timeout: u64,
    /// Block until the daemon answers.
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    wait: bool,
}

/// The daemon's control service.
pub(crate) type Control = ControlClient<Channel>;

#[derive(Subcommand)]
enum Command {
    Du(du::Du),
    Prune(prune::Prune),
    PruneHistories(prune_histories::PruneHistories),
    #[command(visible_alias = "b")]
    Build(Box<build::Build>),
    /// Debug utilities.
    Debug(debug::Debug),
    DialStdio(dial_stdio::DialStdio),
}

impl Global {
    /// The address that somebody named, by flag or environment.
    pub(crate) fn named_address(&self) -> Option<String> {
        let named = self.addr.clone().or_else(|| args::env("BUILDKIT_HOST"));
        named.filter(|address| !address.is_empty())
    }

    /// The address that is meant.
    pub(crate) fn address(&self) -> String {
        self.named_address().unwrap_or_else(|| DEFAULT_ADDRESS.into())
    }

    /// How long to try to connect.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        (self.timeout > 0).then(|| Duration::from_secs(self.timeout))
    }

    fn tls(&self) -> Result<Option<TlsFiles>, Error> {
        let mut files = match &self.tlsdir {
            Some(_) if self.tlscacert.is_some() || self.tlscert.is_some() || self.tlskey.is_some() => {
                return Err(Error::Usage(
                    "cannot specify tlsdir and tlscacert/tlscert/tlskey at the same time".into(),
                ));
            }
            Some(dir) => TlsFiles::in_dir(dir)?,
            None => TlsFiles {
                ca: self.tlscacert.clone(),
                cert: self.tlscert.clone(),
                key: self.tlskey.clone(),
                server_name: None,
            },
        };
        if files == TlsFiles::default() {
            return Ok(None);
        }
        files.server_name.clone_from(&self.tlsservername);
        Ok(Some(files))
    }

    /// A channel to the daemon.
    pub(crate) async fn connect(&self) -> Result<Channel, Error> {
        let (address, options) = (self.address(), Options { tls: self.tls()?, timeout: self.timeout() });
        if !self.wait {
            return connect::connect(&address, &options).await;
        }
        let wait = async {
            loop {
                if let Ok(channel) = connect::connect(&address, &options).await
                    && answers(channel.clone()).await?
                {
                    return Ok(channel);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        match self.timeout() {
            None => wait.await,
            Some(limit) => tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| {
                Err(Error::Connect {
                    address: address.clone(),
                    problem: format!("no answer within {limit:?}"),
                })
            }),
        }
    }

    /// The daemon's control service.
    pub(crate) async fn control(&self) -> Result<Control, Error> {
        Ok(ControlClient::new(self.connect().await?).limited())
    }
}

/// The daemon is there. One that does not know the question has answered, too.
async fn answers(channel: Channel) -> Result<bool, Error> {
    match ControlClient::new(channel).limited().info(InfoRequest {}).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::Unavailable => Ok(false),
        Err(status) if status.code() == Code::Unimplemented => Ok(true),
        Err(status) => Err(Error::daemon("failed to call info")(status)),
    }
}

/// Runs a command line.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let mut command = Cli::command();
    let cli = command
        .try_get_matches_from_mut(args::normalize(&Cli::command(), args))
        .and_then(|m| Cli::from_arg_matches(&m));
    match cli {
        Ok(Cli { command: Some(command), global, .. }) => runtime::finish(run(command, global)),
        Ok(_) => {
            // Nobody reads help that cannot be printed.
            drop(command.print_help());
            ExitCode::SUCCESS
        }
        Err(error) => {
            drop(error.print());
            if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

fn run(command: Command, global: Global) -> Result<(), Error> {
    runtime::block_on(async move {
        match command {
            Command::Build(build) => build.run(&global).await,
            Command::Du(du) => du.run(global.control().await?).await,
            Command::Prune(prune) => prune.run(global.control().await?).await,
            Command::PruneHistories(prune) => prune.run(&global).await,
            Command::Debug(debug) => debug.run(&global).await,
            Command::DialStdio(dial) => dial.run(&global).await,
        }
    })
}

/// Standard output, written when the command is done.
pub(crate) fn print(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> Result<(), Error> {
    use std::io::Write as _;
    let mut text = Vec::new();
    write(&mut text)
        .and_then(|()| std::io::stdout().write_all(&text))
        .map_err(Error::io("writing to standard output"))
}
