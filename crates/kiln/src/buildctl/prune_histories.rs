//! `buildctl prune-histories`.

use std::io::Write as _;

use clap::Args;
use kiln_client::Error;
use kiln_proto::control::{
    BuildHistoryEvent, BuildHistoryRecord, BuildHistoryRequest, UpdateBuildHistoryRequest,
};

use super::{Global, format};
use crate::{table::Table, template};

/// Clean up build histories.
#[derive(Args)]
pub(crate) struct PruneHistories {
    /// Format the output using the given Go template, e.g, '{{json .}}'.
    #[arg(long)]
    format: Option<String>,
}

impl PruneHistories {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let failed = Error::daemon("failed to update the build history");
        let mut control = global.control().await?;
        let events = list(&mut control).await?;
        let format = self.format.filter(|f| !f.is_empty());
        let mut text = Vec::new();
        let mut table = Table::new();
        table.row(["TYPE", "REF", "CREATED", "COMPLETED", "GENERATION"]);
        for event in events {
            let Some(record) = event.record.as_ref().filter(|record| !record.pinned) else { continue };
            let delete =
                UpdateBuildHistoryRequest { r#ref: record.r#ref.clone(), delete: true, ..Default::default() };
            control.update_build_history(delete).await.map_err(&failed)?;
            match &format {
                Some(format) => {
                    text.extend(format!("{}\n", template::render(format, &format::history(&event))?).bytes())
                }
                None => table.cells(cells(&event, record)),
            }
        }
        super::print(|out| if format.is_some() { out.write_all(&text) } else { table.write(out) })
    }
}

/// All records that there are now.
pub(crate) async fn list(
    control: &mut kiln_proto::control::control_client::ControlClient<tonic::transport::Channel>,
) -> Result<Vec<BuildHistoryEvent>, Error> {
    let failed = Error::daemon("failed to list the build history");
    let request = BuildHistoryRequest { early_exit: true, ..Default::default() };
    let mut stream = control.listen_build_history(request).await.map_err(&failed)?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.map_err(&failed)? {
        events.push(event);
    }
    Ok(events)
}

/// A row: type, name, times, generation.
pub(crate) fn cells(event: &BuildHistoryEvent, record: &BuildHistoryRecord) -> Vec<String> {
    let time =
        |time: &Option<_>| time.as_ref().map(kiln_client::progress::time::rfc3339_local).unwrap_or_default();
    vec![
        event.r#type().as_str_name().to_owned(),
        record.r#ref.clone(),
        time(&record.created_at),
        time(&record.completed_at),
        record.generation.to_string(),
    ]
}
