//! `kiln why`.

use std::io::{self, Write as _};

use clap::Args;
use kiln_client::Error;
use kiln_proto::{
    history::{ExplainRequest, history_client::HistoryClient},
    limits::Limited as _,
};
use kiln_why::Answer;
use tonic::Code;

use super::daemon::Daemon;
use crate::buildctl::print;

/// Say why steps of a build were not cached: which key was tried, and what differs from the build before.
#[derive(Args)]
pub(crate) struct Why {
    /// A build, by its ref or the beginning of it.
    #[arg(value_name = "REF", default_value = "LAST")]
    build: String,
    /// A step, told in full: its number in the overview, what its name has in brackets ("build 2/4"), or a part of its name.
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// Print JSON (docs/why.md describes it).
    #[arg(long)]
    json: bool,
}

/// What is asked of the daemon, in the words of its errors.
const DOING: &str = "failed to explain the build";

impl Why {
    pub(crate) async fn run(self, daemon: &Daemon) -> Result<(), Error> {
        let connection = daemon.connect().await?;
        let answered = self.ask(HistoryClient::new(connection.channel()).limited()).await;
        connection.close().await;
        self.show(&answered?)
    }

    async fn ask(&self, mut history: HistoryClient<tonic::transport::Channel>) -> Result<Vec<u8>, Error> {
        let last = self.build.eq_ignore_ascii_case("last");
        let request = ExplainRequest {
            r#ref: if last { String::new() } else { self.build.clone() },
            step: self.step.clone().unwrap_or_default(),
        };
        match history.explain(request).await {
            Ok(answer) => Ok(answer.into_inner().document.into()),
            Err(status) if status.code() == Code::Unimplemented => Err(Error::Usage(
                "this daemon keeps no records that could explain a build: it is BuildKit's, or an older Kiln"
                    .into(),
            )),
            Err(status) => Err(Error::daemon(DOING)(status)),
        }
    }

    fn show(&self, document: &[u8]) -> Result<(), Error> {
        let unreadable = |error: serde_json::Error| Error::Io {
            what: "reading the daemon's answer".into(),
            source: io::Error::other(error),
        };
        if self.json {
            // As it came: a newer daemon may say more.
            let value: serde_json::Value = serde_json::from_slice(document).map_err(unreadable)?;
            return print(|out| writeln!(out, "{value:#}"));
        }
        let answer: Answer = serde_json::from_slice(document).map_err(unreadable)?;
        print(|out| kiln_why::text::write(out, &answer, self.step.is_some()))
    }
}
