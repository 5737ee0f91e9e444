//! `buildctl debug ctl`.

use clap::Args;
use kiln_client::Error;
use kiln_proto::control::UpdateBuildHistoryRequest;

use crate::buildctl::Global;

/// Control build records.
#[derive(Args)]
pub(crate) struct Ctl {
    /// Which build.
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    action: Action,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Action {
    /// Pin build so it will not be garbage collected.
    #[arg(long)]
    pin: bool,
    /// Unpin build.
    #[arg(long)]
    unpin: bool,
    /// Delete build record.
    #[arg(long)]
    delete: bool,
}

impl Ctl {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let request = UpdateBuildHistoryRequest {
            r#ref: self.reference,
            pinned: self.action.pin,
            delete: self.action.delete,
            finalize: false,
        };
        let updated = global.control().await?.update_build_history(request).await;
        updated.map(drop).map_err(Error::daemon("failed to update the build history"))
    }
}
