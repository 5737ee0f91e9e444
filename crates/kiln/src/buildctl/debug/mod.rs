//! `buildctl debug …`.

mod ctl;
mod get;
mod histories;
mod info;
mod logs;
mod monitor;
mod workers;

use clap::{Args, Subcommand};
use kiln_client::Error;

use super::Global;

/// The commands.
#[derive(Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct Debug {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Workers(workers::Workers),
    Info(info::Info),
    Logs(logs::Logs),
    Ctl(ctl::Ctl),
    Get(get::Get),
    Histories(histories::Histories),
    Monitor(monitor::Monitor),
    /// Dump LLB in human-readable format.
    DumpLlb(Missing),
    /// Dump metadata of a daemon's state in human-readable format.
    DumpMetadata(Missing),
}

/// What is refused, whatever its arguments.
#[derive(Args)]
struct Missing {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    args: Vec<String>,
}

impl Missing {
    fn refuse(self, name: &str) -> Result<(), Error> {
        Err(Error::Unsupported(format!("buildctl debug {name} {}", self.args.join(" "))))
    }
}

impl Debug {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        match self.command {
            Some(Command::Workers(command)) => command.run(global).await,
            Some(Command::Info(command)) => command.run(global).await,
            Some(Command::Logs(command)) => command.run(global).await,
            Some(Command::Ctl(command)) => command.run(global).await,
            Some(Command::Get(command)) => command.run(global).await,
            Some(Command::Histories(command)) => command.run(global).await,
            Some(Command::Monitor(command)) => command.run(global).await,
            Some(Command::DumpLlb(missing)) => missing.refuse("dump-llb"),
            Some(Command::DumpMetadata(missing)) => missing.refuse("dump-metadata"),
            None => Err(Error::Usage(
                "buildctl debug needs a command: workers, info, logs, ctl, get, histories or monitor".into(),
            )),
        }
    }
}
