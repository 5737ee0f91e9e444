//! `buildctl debug histories`.

use std::io::Write as _;

use clap::Args;
use kiln_client::Error;

use crate::{
    buildctl::{Global, format, print, prune_histories},
    table::Table,
    template,
};

/// List build records.
#[derive(Args)]
pub(crate) struct Histories {
    /// Format the output using the given Go template, e.g, '{{json .}}'.
    #[arg(long)]
    format: Option<String>,
}

impl Histories {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let events = prune_histories::list(&mut global.control().await?).await?;
        if let Some(format) = self.format.filter(|f| !f.is_empty()) {
            let lines = events.iter().map(|event| template::render(&format, &format::history(event)));
            let lines = lines.collect::<Result<Vec<_>, _>>()?;
            return print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")));
        }
        let mut table = Table::new();
        table.row(["TYPE", "REF", "CREATED", "COMPLETED", "GENERATION", "PINNED"]);
        for event in &events {
            let Some(record) = &event.record else { continue };
            let mut cells = prune_histories::cells(event, record);
            cells.push(if record.pinned { "*".into() } else { String::new() });
            table.cells(cells);
        }
        print(|out| table.write(out))
    }
}
