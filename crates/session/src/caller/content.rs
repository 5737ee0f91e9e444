//! The client's OCI layouts, as stores of blobs.

use std::{
    collections::BTreeMap,
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kiln_proto::{
    content::{
        InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest, content_client::ContentClient,
    },
    limits::Limited as _,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, metadata::AsciiMetadataValue};

use crate::{Error, Session, headers};

/// Bytes of a blob in one message.
const CHUNK: usize = 1 << 20;
/// Messages on their way.
const QUEUE: usize = 8;

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
    /// Puts a blob into the store. One that the store has already is fine.
    ///
    /// # Errors
    /// The client's; [`Error::Io`] when `blob` cannot be read or is shorter than `size`.
    pub async fn put(
        &self,
        digest: &str,
        size: u64,
        blob: impl Read + Seek + Send + 'static,
    ) -> Result<(), Error> {
        match self.write(digest, size, blob).await {
            Err(error) if error.code() == Some(Code::AlreadyExists) => Ok(()),
            result => result,
        }
    }

    async fn write(
        &self,
        digest: &str,
        size: u64,
        blob: impl Read + Seek + Send + 'static,
    ) -> Result<(), Error> {
        let (requests, outgoing) = mpsc::channel(QUEUE);
        let call = self.request(ReceiverStream::new(outgoing));
        let first = message(digest, size, WriteAction::Stat, 0, Bytes::new());
        // The peer answers the first message, so that one has to be on its way when the call is made.
        requests.send(first).await.map_err(|_| Status::aborted("the call ended early"))?;
        let mut client = ContentClient::new(self.session.channel()).limited();
        let mut answers = client.write(call).await?.into_inner();
        let offset = match answers.message().await? {
            Some(answer) => u64::try_from(answer.offset).unwrap_or(0),
            None => return Err(Status::aborted("the client ended the transfer of a blob").into()),
        };
        let name = digest.to_owned();
        let sender = tokio::task::spawn_blocking(move || send(&name, size, blob, offset, &requests));
        while answers.message().await?.is_some() {}
        let failed = |source| Error::Io { what: format!("sending blob {digest}"), source };
        sender.await.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)
    }
}

/// Sends a blob from `offset` on. Blocks.
fn send(
    digest: &str,
    size: u64,
    mut blob: impl Read + Seek,
    mut offset: u64,
    requests: &mpsc::Sender<WriteContentRequest>,
) -> std::io::Result<()> {
    blob.seek(SeekFrom::Start(offset))?;
    while offset < size {
        let mut data = Vec::with_capacity(CHUNK);
        (&mut blob).take((size - offset).min(CHUNK as u64)).read_to_end(&mut data)?;
        if data.is_empty() {
            let problem = format!("the blob ends after {offset} of {size} bytes");
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, problem));
        }
        let next = offset + data.len() as u64;
        // The answers tell why the client stopped listening.
        if requests.blocking_send(message(digest, size, WriteAction::Write, offset, data.into())).is_err() {
            return Ok(());
        }
        offset = next;
    }
    drop(requests.blocking_send(message(digest, size, WriteAction::Commit, offset, Bytes::new())));
    Ok(())
}

fn message(digest: &str, size: u64, action: WriteAction, offset: u64, data: Bytes) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: format!("kiln-{digest}"),
        total: i64::try_from(size).unwrap_or(i64::MAX),
        expected: digest.to_owned(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data,
        labels: BTreeMap::new(),
    }
}
