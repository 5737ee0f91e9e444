//! `buildctl debug monitor`.

use std::io::{self, Write as _};

use clap::Args;
use kiln_client::Error;
use kiln_proto::control::{BuildHistoryEvent, BuildHistoryRequest, BuildResultInfo, Descriptor};

use crate::{args, buildctl::Global};

/// Display build events.
#[derive(Args)]
pub(crate) struct Monitor {
    /// Show completed builds.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    completed: bool,
    /// Show events for a specific build.
    #[arg(long = "ref", default_value = "")]
    reference: String,
}

impl Monitor {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let failed = Error::daemon("failed to follow the build history");
        let request =
            BuildHistoryRequest { active_only: !self.completed, r#ref: self.reference, ..Default::default() };
        let mut control = global.control().await?;
        let mut events = control.listen_build_history(request).await.map_err(&failed)?.into_inner();
        while let Some(event) = events.message().await.map_err(&failed)? {
            let mut text = String::new();
            describe(&event, &mut text);
            io::stdout().write_all(text.as_bytes()).map_err(Error::io("writing to standard output"))?;
        }
        Ok(())
    }
}

fn describe(event: &BuildHistoryEvent, text: &mut String) {
    let Some(record) = &event.record else { return };
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    line(format!("event: {} ref:{}", event.r#type().as_str_name(), record.r#ref));
    if record.num_total_steps != 0 {
        line(format!("  cache: {}/{}", record.num_cached_steps, record.num_total_steps));
    }
    if record.num_warnings != 0 {
        line(format!("  warnings: {}", record.num_warnings));
    }
    for (name, blob) in [("logs", &record.logs), ("trace", &record.trace)] {
        if let Some(blob) = blob {
            line(format!("  {name}: {}", shown(blob)));
        }
    }
    let own = record.result.iter().map(|result| (String::new(), result));
    let by_platform = record.results.iter().map(|(platform, result)| (format!("[{platform}] "), result));
    for (prefix, result) in own.chain(by_platform) {
        for blob in results(result) {
            line(format!("  {prefix}descriptor: {}", shown(blob)));
        }
        for blob in &result.attestations {
            line(format!("  {prefix}attestation: {}", shown(blob)));
        }
    }
}

/// What was built; old daemons know one thing only.
fn results(info: &BuildResultInfo) -> Vec<&Descriptor> {
    if info.results.is_empty() {
        info.result_deprecated.iter().collect()
    } else {
        info.results.values().collect()
    }
}

fn shown(blob: &Descriptor) -> String {
    format!("media_type:\"{}\" digest:\"{}\" size:{}", blob.media_type, blob.digest, blob.size)
}
