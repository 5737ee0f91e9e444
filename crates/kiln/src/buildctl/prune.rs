//! `buildctl prune`.

use std::io::{self, Write as _};

use clap::Args;
use kiln_client::{
    Error,
    units::{parse_go_duration, size},
};
use kiln_proto::control::PruneRequest;

use super::{Control, du, format};
use crate::{args, table::Table, template};

/// Clean up build cache.
#[derive(Args)]
pub(crate) struct Prune {
    /// Keep data newer than this limit.
    #[arg(long, default_value = "0s", value_parser = parse_go_duration)]
    keep_duration: i64,
    /// Keep data below this limit (in MB).
    #[arg(long, default_value_t = 0.0)]
    keep_storage: f64,
    /// Always allow data below this limit (in MB).
    #[arg(long, default_value_t = 0.0)]
    keep_storage_min: f64,
    /// Keep free space below this limit (in MB).
    #[arg(long, default_value_t = 0.0)]
    free_storage: f64,
    /// Filter records.
    #[arg(short, long)]
    filter: Vec<String>,
    /// Include internal/frontend references.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    all: bool,
    /// Verbose output.
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    verbose: bool,
    /// Format the output using the given Go template, e.g, '{{json .}}'.
    #[arg(long)]
    format: Option<String>,
}

/// Megabytes as bytes.
#[expect(clippy::cast_possible_truncation, reason = "a cast saturates, which is what a huge limit means")]
fn bytes(megabytes: f64) -> i64 {
    (megabytes * 1e6) as i64
}

impl Prune {
    pub(crate) async fn run(self, control: Control) -> Result<(), Error> {
        let request = PruneRequest {
            filter: self.filter.clone(),
            all: self.all,
            keep_duration: self.keep_duration,
            reserved_space: bytes(self.keep_storage_min),
            max_used_space: bytes(self.keep_storage),
            min_free_space: bytes(self.free_storage),
        };
        prune(control, request, self.format.filter(|f| !f.is_empty()), self.verbose).await
    }
}

/// Prunes, and prints each record that went, and their sum.
///
/// # Errors
/// The daemon's, and a template that asks for what there is not.
pub(crate) async fn prune(
    mut control: Control,
    request: PruneRequest,
    format: Option<String>,
    verbose: bool,
) -> Result<(), Error> {
    let failed = Error::daemon("failed to call prune");
    let mut records = control.prune(request).await.map_err(&failed)?.into_inner();
    let mut total = 0_i64;
    let mut table = Table::new();
    let mut first = true;
    while let Some(record) = records.message().await.map_err(&failed)? {
        total = total.saturating_add(record.size);
        let mut text = Vec::new();
        let result = if let Some(format) = &format {
            writeln!(text, "{}", template::render(format, &format::usage(&record))?)
        } else if verbose {
            du::write_verbose(&mut text, std::slice::from_ref(&record))
        } else {
            if std::mem::take(&mut first) {
                du::header(&mut table);
            }
            table.cells(du::row(&record));
            table.write(&mut text)
        };
        result
            .and_then(|()| io::stdout().write_all(&text))
            .map_err(Error::io("writing to standard output"))?;
    }
    if format.is_some() {
        return Ok(());
    }
    super::print(|out| writeln!(out, "Total:\t{}", size(total, 2)))
}
