//! One blob from the client, such as a build context that it reads from its standard input.

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kiln_proto::{limits::Limited as _, upload::upload_client::UploadClient};
use tonic::{Request, metadata::AsciiMetadataValue};

use crate::{Error, Session, headers};

/// The bytes that the client keeps under the URL `http://<host><path>`.
///
/// # Errors
/// The client's, at once or in the stream.
pub async fn pull(
    session: &Session,
    host: &str,
    path: &str,
) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
    let mut call = Request::new(futures::stream::pending());
    for (name, text) in [(headers::UPLOAD_PATH, path), (headers::UPLOAD_HOST, host)] {
        let value = text
            .parse::<AsciiMetadataValue>()
            .map_err(|_| Error::Header { name, problem: format!("{text:?} is not ASCII") })?;
        call.metadata_mut().insert(name, value);
    }
    let incoming = UploadClient::new(session.channel()).limited().pull(call).await?.into_inner();
    Ok(incoming.map(|message| Ok(message?.data)))
}
