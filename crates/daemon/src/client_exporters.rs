//! Exporters that a client chooses once it knows the result, and what it is told of the outcome.

use std::{collections::BTreeMap, time::Duration};

use kiln_frontend::{FrontendResult, wire_error};
use kiln_proto::status::WireError;
use kiln_session::{Error, Session, caller};
use tonic::Code;

/// How long the client's program may take over the outcome of an export.
const PATIENCE: Duration = Duration::from_secs(300);

/// Asks the client how `result` shall be exported. One that cannot be asked wants nothing.
pub(crate) async fn find<T>(
    session: &Session,
    result: &FrontendResult,
    exporter: impl Fn(&str, &BTreeMap<String, String>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let refs = result.refs.iter().map(|one| one.id().to_owned()).collect();
    match caller::find_exporters(session, result.metadata.clone(), refs).await {
        Ok(wanted) => wanted.iter().map(|one| exporter(&one.r#type, &one.attrs)).collect(),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(wire_error(error)),
    }
}

/// Tells the client what the exporters answered; its error is the build's.
pub(crate) async fn finalize(
    session: &Session,
    response: &BTreeMap<String, String>,
) -> Result<(), WireError> {
    let told = tokio::time::timeout(PATIENCE, caller::finalize_export(session, response.clone())).await;
    match told {
        Ok(Err(error)) if is_absent(&error) => Ok(()),
        Ok(outcome) => outcome.map_err(wire_error),
        Err(_) => Err(wire_error("the client did not finish its export in time")),
    }
}

/// Whether the client has no such service, or none that is ready.
fn is_absent(error: &Error) -> bool {
    matches!(error.code(), Some(Code::Unimplemented | Code::Unavailable))
}
