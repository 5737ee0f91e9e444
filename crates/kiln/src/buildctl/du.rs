//! `buildctl du`, and tables of usage records, which `prune` prints, too.

use std::io::{self, Write};

use clap::Args;
use kiln_client::{Error, units::size};
use kiln_proto::control::{DiskUsageRequest, UsageRecord};
use serde_json::Value;

use super::{Control, format};
use crate::{args, table::Table, template};

/// Disk usage.
#[derive(Args)]
pub(crate) struct Du {
    /// Filter records.
    #[arg(short, long)]
    filter: Vec<String>,
    /// Verbose output.
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    verbose: bool,
    /// Format the output using the given Go template, e.g, '{{json .}}'.
    #[arg(long)]
    format: Option<String>,
}

impl Du {
    pub(crate) async fn run(self, mut control: Control) -> Result<(), Error> {
        let request = DiskUsageRequest { filter: self.filter.clone(), age_limit: 0 };
        let response = control.disk_usage(request).await;
        let mut records = response.map_err(Error::daemon("failed to call diskusage"))?.into_inner().record;
        sort(&mut records);
        if let Some(format) = self.format.filter(|f| !f.is_empty()) {
            // Go's encoder writes a list that was never made as null.
            let all =
                if records.is_empty() { Value::Null } else { records.iter().map(format::usage).collect() };
            let text = template::render(&format, &all)?;
            return super::print(|out| writeln!(out, "{text}"));
        }
        super::print(|out| {
            if self.verbose {
                write_verbose(out, &records)?;
            } else {
                write_table(out, &records)?;
            }
            if self.filter.is_empty() { write_summary(out, &records) } else { Ok(()) }
        })
    }
}

/// By size, then id.
pub(crate) fn sort(records: &mut [UsageRecord]) {
    records.sort_by(|a, b| (a.size, &a.id).cmp(&(b.size, &b.id)));
}

/// One record as a row.
pub(crate) fn row(record: &UsageRecord) -> Vec<String> {
    let mark = |marked: bool| if marked { "*" } else { "" };
    let id = format!("{}{}", record.id, mark(record.mutable));
    let reclaimable = !record.in_use;
    vec![
        format!("{id:<71}"),
        format!("{reclaimable:<11}"),
        format!("{}{}", size(record.size, 2), mark(record.shared)),
        String::new(),
    ]
}

/// The head of a table of records.
pub(crate) fn header(table: &mut Table) {
    table.row(["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"]);
}

fn write_table(out: &mut impl Write, records: &[UsageRecord]) -> io::Result<()> {
    let mut table = Table::new();
    header(&mut table);
    records.iter().for_each(|record| table.cells(row(record)));
    table.write(out)
}

/// Records with all that is known of them.
pub(crate) fn write_verbose(out: &mut impl Write, records: &[UsageRecord]) -> io::Result<()> {
    let mut table = Table::new();
    for record in records {
        let mut field = |name: &str, value: String| table.cells(vec![format!("{name}:"), value]);
        field("ID", record.id.clone());
        let parents = format::parents(record);
        if !parents.is_empty() {
            field("Parents", parents.join(";"));
        }
        field("Created at", record.created_at.as_ref().map(time).unwrap_or_default());
        field("Mutable", record.mutable.to_string());
        field("Reclaimable", (!record.in_use).to_string());
        field("Shared", record.shared.to_string());
        field("Size", size(record.size, 2));
        if !record.description.is_empty() {
            field("Description", record.description.clone());
        }
        field("Usage count", record.usage_count.to_string());
        if let Some(used) = &record.last_used_at {
            field("Last used", time(used));
        }
        if !record.record_type.is_empty() {
            field("Type", record.record_type.clone());
        }
        table.cells(vec![String::new()]);
    }
    table.write(out)
}

/// As Go prints times: `2026-11-21 06:01:41.385032649 +0000 UTC`.
fn time(time: &kiln_client::progress::time::Timestamp) -> String {
    let text = kiln_client::progress::time::rfc3339(time);
    let text = text.trim_end_matches('Z').replacen('T', " ", 1);
    format!("{text} +0000 UTC")
}

fn write_summary(out: &mut impl Write, records: &[UsageRecord]) -> io::Result<()> {
    let sum = |test: &dyn Fn(&UsageRecord) -> bool| -> i64 {
        records.iter().filter(|record| test(record)).map(|record| record.size.max(0)).sum()
    };
    let (total, shared) = (sum(&|_| true), sum(&|r| r.shared));
    let mut table = Table::new();
    let mut line = |name: &str, bytes: i64| table.cells(vec![format!("{name}:"), size(bytes, 2)]);
    if shared > 0 {
        line("Shared", shared);
        line("Private", total - shared);
    }
    line("Reclaimable", sum(&|r| !r.in_use));
    line("Total", total);
    table.write(out)
}
