//! The client's OCI layouts, as stores of blobs.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kiln_proto::{
    content::{InfoRequest, ReadContentRequest, content_client::ContentClient},
    limits::Limited as _,
};
use tonic::{Request, metadata::AsciiMetadataValue};

use crate::{Error, Session, headers};

/// One of the client's stores.
#[derive(Clone, Debug)]
pub struct ContentStore {
    session: Arc<Session>,
    store: AsciiMetadataValue,
}

impl ContentStore {
    /// The store that the client calls `id`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the client has no stores, [`Error::Header`] for an id that is not ASCII.
    pub fn new(session: Arc<Session>, id: &str) -> Result<Self, Error> {
        session.require("/containerd.services.content.v1.Content/Info")?;
        let store = id.parse().map_err(|_| Error::Header {
            name: headers::STORE_ID,
            problem: format!("{id:?} is not ASCII"),
        })?;
        Ok(Self { session, store })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(headers::STORE_ID, self.store.clone());
        request
    }

    /// The size of a blob in bytes.
    ///
    /// # Errors
    /// The client's, with code `NotFound` when it does not have it.
    pub async fn size(&self, digest: &str) -> Result<u64, Error> {
        let mut client = ContentClient::new(self.session.channel()).limited();
        let answer = client.info(self.request(InfoRequest { digest: digest.to_owned() })).await?.into_inner();
        Ok(answer.info.and_then(|info| u64::try_from(info.size).ok()).unwrap_or_default())
    }

    /// A blob's bytes from `offset` on. The caller verifies the digest.
    ///
    /// # Errors
    /// The client's, at once or in the stream.
    pub async fn read(
        &self,
        digest: &str,
        offset: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let request = ReadContentRequest { digest: digest.to_owned(), offset, size: 0 };
        let mut client = ContentClient::new(self.session.channel()).limited();
        let incoming = client.read(self.request(request)).await?.into_inner();
        Ok(incoming.map(|message| Ok(message?.data)))
    }
}
