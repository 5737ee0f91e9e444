//! `kiln <command>`: for people.

mod build;
mod context;
mod daemon;
mod output;
mod prune;
mod value;
mod why;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use kiln_client::Error;

use crate::{args, buildctl::du, runtime};

/// Turns source code into container images.
#[derive(Parser)]
#[command(name = "kiln", version)]
struct Cli {
    #[command(flatten)]
    daemon: daemon::Daemon,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(visible_alias = "b")]
    Build(Box<build::Build>),
    Du(du::Du),
    Prune(prune::Prune),
    Why(why::Why),
    /// The daemon, with BuildKit's flags.
    Buildkitd,
    /// BuildKit's client, with its flags.
    Buildctl,
}

/// Runs a command line. The last two commands are gone from it already.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let mut command = Cli::command();
    let args = args::normalize(&command, args);
    match command.try_get_matches_from_mut(args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(Cli { command: Some(command), daemon }) => runtime::finish(run(command, daemon)),
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

fn run(command: Command, daemon: daemon::Daemon) -> Result<(), Error> {
    runtime::block_on(async move {
        match command {
            Command::Build(build) => build.run(&daemon).await,
            Command::Du(du) => daemon.with_control(|control| du.run(control)).await,
            Command::Prune(prune) => daemon.with_control(|control| prune.run(control)).await,
            Command::Why(why) => why.run(&daemon).await,
            Command::Buildkitd | Command::Buildctl => {
                Err(Error::Usage("buildkitd and buildctl must be the first argument".into()))
            }
        }
    })
}
