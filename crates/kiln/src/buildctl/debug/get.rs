//! `buildctl debug get`.

use std::io::{self, Write as _};

use clap::Args;
use kiln_client::Error;
use kiln_oci::Digest;
use kiln_proto::{
    content::{ReadContentRequest, content_client::ContentClient},
    limits::Limited as _,
};
use tonic::transport::Channel;

use crate::buildctl::Global;

/// Retrieve a blob from the daemon's content store.
#[derive(Args)]
pub(crate) struct Get {
    /// Which blob.
    digest: String,
}

impl Get {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let digest = Digest::parse(&self.digest).map_err(|error| Error::Usage(error.to_string()))?;
        read_blob(global.connect().await?, digest.as_str(), |data| io::stdout().write_all(data)).await
    }
}

/// Reads a blob of the daemon's, piece by piece.
pub(crate) async fn read_blob(
    channel: Channel,
    digest: &str,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    let failed = Error::daemon("failed to read content");
    let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let mut stream = ContentClient::new(channel).limited().read(request).await.map_err(&failed)?.into_inner();
    while let Some(message) = stream.message().await.map_err(&failed)? {
        write(&message.data).map_err(Error::io("writing to standard output"))?;
    }
    Ok(())
}
