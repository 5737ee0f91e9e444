//! `buildctl debug logs`.

use std::io::Write as _;

use clap::Args;
use kiln_client::{
    Error,
    progress::{Display, Extras, Style, To},
};
use kiln_proto::control::{BuildHistoryRequest, StatusRequest};

use super::get::read_blob;
use crate::{
    args,
    buildctl::{Global, build::progress_mode},
};

/// Display build logs.
#[derive(Args)]
pub(crate) struct Logs {
    /// Which build.
    #[arg(value_name = "REF")]
    reference: String,
    /// Progress output type (auto, plain, tty, rawjson).
    #[arg(long, default_value = "auto")]
    progress: String,
    /// Show opentelemetry trace.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    trace: bool,
}

impl Logs {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        if self.trace {
            return self.show_trace(global).await;
        }
        let failed = Error::daemon("failed to get status");
        let mode = progress_mode(&self.progress)?;
        let mut control = global.control().await?;
        let mut stream =
            control.status(StatusRequest { r#ref: self.reference }).await.map_err(&failed)?.into_inner();
        let (display, events) =
            Display::start(To::Stdout, mode, Style::from_env(&args::env), Extras::default())?;
        let result = async {
            while let Some(event) = stream.message().await.map_err(&failed)? {
                events.send(event);
            }
            Ok(())
        }
        .await;
        drop(events);
        let finished = display.finish();
        result.and(finished.error.map_or(Ok(()), |error| Err(Error::io("writing to standard output")(error))))
    }

    async fn show_trace(self, global: &Global) -> Result<(), Error> {
        let failed = Error::daemon("failed to read the build history");
        let channel = global.connect().await?;
        let mut control = kiln_proto::control::control_client::ControlClient::new(channel.clone());
        let request =
            BuildHistoryRequest { r#ref: self.reference.clone(), early_exit: true, ..Default::default() };
        let mut stream = control.listen_build_history(request).await.map_err(&failed)?.into_inner();
        let record = stream.message().await.map_err(&failed)?.and_then(|event| event.record);
        let missing = |what: &str| Error::Usage(format!("ref {} {what}", self.reference));
        let trace = record
            .ok_or_else(|| missing("not found"))?
            .trace
            .ok_or_else(|| missing("does not have trace"))?;
        read_blob(channel, &trace.digest, |data| std::io::stdout().write_all(data)).await
    }
}
