//! Exporters that the client chooses when the result is known.

use std::collections::BTreeMap;

use bytes::Bytes;
use kiln_proto::{
    exporter::{
        ExporterRequest, FinalizeExportRequest, FindExportersRequest, exporter_client::ExporterClient,
    },
    limits::Limited as _,
};

use crate::{Error, Session};

/// Asks which exporters shall write a result with this metadata and these ref ids.
///
/// # Errors
/// The client's.
pub async fn find_exporters(
    session: &Session,
    metadata: BTreeMap<String, Bytes>,
    refs: Vec<String>,
) -> Result<Vec<ExporterRequest>, Error> {
    let mut client = ExporterClient::new(session.channel()).limited();
    Ok(client.find_exporters(FindExportersRequest { metadata, refs }).await?.into_inner().exporters)
}

/// Tells the client what the exporters answered.
///
/// # Errors
/// The client's.
pub async fn finalize_export(
    session: &Session,
    exporter_response: BTreeMap<String, String>,
) -> Result<(), Error> {
    let mut client = ExporterClient::new(session.channel()).limited();
    client.finalize_export(FinalizeExportRequest { exporter_response }).await?;
    Ok(())
}
