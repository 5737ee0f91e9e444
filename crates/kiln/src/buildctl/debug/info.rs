//! `buildctl debug info`.

use std::io::Write as _;

use clap::Args;
use kiln_client::Error;
use kiln_proto::control::InfoRequest;
use serde_json::json;

use crate::{
    buildctl::{Global, format, print},
    template,
};

/// Display internal information.
#[derive(Args)]
pub(crate) struct Info {
    /// Format the output using the given Go template, e.g, '{{json .}}'.
    #[arg(long)]
    format: Option<String>,
}

impl Info {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let response = global.control().await?.info(InfoRequest {}).await;
        let version = response.map_err(Error::daemon("failed to call info"))?.into_inner().buildkit_version;
        if let Some(format) = self.format.filter(|f| !f.is_empty()) {
            let text =
                template::render(&format, &json!({ "buildkitVersion": format::version(version.as_ref()) }))?;
            return print(|out| writeln!(out, "{text}"));
        }
        let version = version.unwrap_or_default();
        let daemon = format!("{} {} {}", version.package, version.version, version.revision);
        print(|out| {
            if version.dockerfile_version.is_empty() {
                return writeln!(out, "BuildKit: {daemon}");
            }
            writeln!(out, "BuildKit:   {daemon}\nDockerfile: {}", version.dockerfile_version)
        })
    }
}
