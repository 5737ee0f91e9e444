//! `kiln prune`.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use kiln_client::{Error, units::parse_go_duration};
use kiln_proto::control::PruneRequest;

use super::value::bytes;
use crate::buildctl::{Control, prune::prune};

/// Remove build cache.
#[derive(Args)]
pub(crate) struct Prune {
    /// Include internal/frontend references.
    #[arg(short, long)]
    all: bool,
    /// Do not prompt for confirmation.
    #[arg(short, long)]
    force: bool,
    /// Filter records, e.g. type=exec.cachemount; until=24h keeps what is newer.
    #[arg(long)]
    filter: Vec<String>,
    /// Amount of disk space that is always kept, e.g. 10GB.
    #[arg(long, alias = "keep-storage", default_value = "0", value_parser = bytes)]
    reserved_space: i64,
    /// Keep disk usage below this.
    #[arg(long, default_value = "0", value_parser = bytes)]
    max_used_space: i64,
    /// Keep so much of the disk free.
    #[arg(long, default_value = "0", value_parser = bytes)]
    min_free_space: i64,
    /// Provide a more verbose output.
    #[arg(long)]
    verbose: bool,
}

impl Prune {
    pub(crate) async fn run(self, control: Control) -> Result<(), Error> {
        let (until, filter): (Vec<_>, Vec<_>) =
            self.filter.into_iter().partition(|f| f.starts_with("until="));
        let duration =
            |text: &String| parse_go_duration(text.trim_start_matches("until=")).map_err(Error::Usage);
        let keep_duration = until.last().map(duration).transpose()?.unwrap_or_default();
        if !self.force && io::stdin().is_terminal() && !confirmed()? {
            return Ok(());
        }
        let request = PruneRequest {
            filter,
            all: self.all,
            keep_duration,
            reserved_space: self.reserved_space,
            max_used_space: self.max_used_space,
            min_free_space: self.min_free_space,
        };
        prune(control, request, None, self.verbose).await
    }
}

/// Asks on the terminal.
fn confirmed() -> Result<bool, Error> {
    let ask = || {
        let mut answer = String::new();
        write!(io::stderr(), "This removes all build cache that is not in use. Continue? [y/N] ")?;
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    };
    ask().map_err(Error::io("asking for confirmation"))
}
