//! The client's end of an output: a file, a folder, or a store of blobs.

use std::{collections::BTreeMap, fs::File, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use kiln_fstree::diffcopy::{self, Progress};
use kiln_oci::Descriptor;
use kiln_proto::{
    content::{WriteAction, WriteContentRequest, content_client::ContentClient},
    limits::Limited as _,
};
use kiln_session::{Session, caller, headers};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, metadata::AsciiMetadataValue};

use crate::error::{Error, Result, blocking};

/// Bytes of a blob in one message.
const CHUNK: usize = 1 << 20;
/// Messages on their way.
const QUEUE: usize = 8;
/// The id by which clients know the store that outputs go to.
const STORE: &str = "export";

/// A file that is being written.
pub trait FileSink: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>>;
    /// Ends the file, and waits until the client has it.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// Takes what a build puts out.
pub trait Client: Send + Sync {
    /// Opens the output as a file. The response so far goes ahead of it.
    fn open_file(&self, response: &BTreeMap<String, String>) -> Result<Box<dyn FileSink>>;
    /// Sends trees into the output, a folder.
    fn send_trees(&self, trees: Vec<diffcopy::Tree>, progress: Progress) -> BoxFuture<'_, Result<()>>;
    /// Puts a blob into the output, a content store. One that it has already is fine.
    fn put_blob<'a>(&'a self, descriptor: &'a Descriptor, blob: File) -> BoxFuture<'a, Result<()>>;
}

/// A client that is connected by a session.
#[derive(Clone, Debug)]
pub struct SessionClient {
    session: Arc<Session>,
    output: usize,
}

impl SessionClient {
    /// The client's output number `output`.
    pub fn new(session: Arc<Session>, output: usize) -> Self {
        SessionClient { session, output }
    }
}

impl Client for SessionClient {
    fn open_file(&self, response: &BTreeMap<String, String>) -> Result<Box<dyn FileSink>> {
        Ok(Box::new(SessionFile(caller::send_file(&self.session, self.output, response)?)))
    }

    fn send_trees(&self, trees: Vec<diffcopy::Tree>, progress: Progress) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let caller::PacketStreams { outgoing, incoming } =
                caller::send_files(&self.session, self.output).await?;
            let incoming = futures::stream::unfold(incoming, async |mut incoming| {
                let message = incoming.message().await.transpose()?;
                Some((message, incoming))
            });
            diffcopy::send(trees, Box::pin(incoming), outgoing, Some(progress)).await?;
            Ok(())
        })
    }

    fn put_blob<'a>(&'a self, descriptor: &'a Descriptor, blob: File) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.write_blob(descriptor, blob).await {
                Err(error) if is_there(&error) => Ok(()),
                result => result,
            }
        })
    }
}

/// Whether the client says that it has this already.
pub(crate) fn is_there(error: &Error) -> bool {
    matches!(error, Error::Client(error) if error.code() == Some(Code::AlreadyExists))
}

struct SessionFile(caller::FileWriter);

impl FileSink for SessionFile {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { Ok(self.0.write(bytes).await?) })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { Ok(self.0.close().await?) })
    }
}

impl SessionClient {
    async fn write_blob(&self, descriptor: &Descriptor, blob: File) -> Result<()> {
        let (requests, outgoing) = mpsc::channel(QUEUE);
        let mut call = Request::new(ReceiverStream::new(outgoing));
        call.metadata_mut().insert(headers::STORE_ID, AsciiMetadataValue::from_static(STORE));
        let first = write_request(descriptor, WriteAction::Stat, 0, Bytes::new());
        let status = |status: tonic::Status| Error::Client(status.into());
        // The peer answers the first message, so that one has to be on its way when the call is made.
        requests.send(first).await.map_err(|_| status(tonic::Status::aborted("the call ended early")))?;
        let mut client = ContentClient::new(self.session.channel()).limited();
        let mut answers = client.write(call).await.map_err(status)?.into_inner();
        let offset = match answers.message().await.map_err(status)? {
            Some(answer) => u64::try_from(answer.offset).unwrap_or(0),
            None => return Err(status(tonic::Status::aborted("the client ended the transfer of a blob"))),
        };
        let sender = tokio::spawn(send_blob(descriptor.clone(), blob, offset, requests));
        while answers.message().await.map_err(status)?.is_some() {}
        sender.await.map_err(|e| Error::io("send a blob")(std::io::Error::other(e)))?
    }
}

async fn send_blob(
    descriptor: Descriptor,
    blob: File,
    mut offset: u64,
    requests: mpsc::Sender<WriteContentRequest>,
) -> Result<()> {
    let mut blob = Some(blob);
    while offset < descriptor.size {
        let Some(file) = blob.take() else { break };
        let at = offset;
        let (file, data) = blocking(move || read_piece(file, at)).await?;
        if data.is_empty() {
            let problem = "the file in the store is shorter than the blob".to_owned();
            return Err(Error::Blob { digest: descriptor.digest, problem });
        }
        blob = Some(file);
        let next = offset + data.len() as u64;
        // The answers tell why the client stopped listening.
        if requests.send(write_request(&descriptor, WriteAction::Write, offset, data)).await.is_err() {
            return Ok(());
        }
        offset = next;
    }
    let last = write_request(&descriptor, WriteAction::Commit, offset, Bytes::new());
    drop(requests.send(last).await);
    Ok(())
}

fn read_piece(mut file: File, offset: u64) -> Result<(File, Bytes)> {
    use std::io::{Read, Seek, SeekFrom};
    let mut data = vec![0; CHUNK];
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read(&mut data));
    data.truncate(read.map_err(Error::io("read a blob"))?);
    Ok((file, data.into()))
}

fn write_request(
    descriptor: &Descriptor,
    action: WriteAction,
    offset: u64,
    data: Bytes,
) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: format!("kiln-{}", descriptor.digest),
        total: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        expected: descriptor.digest.to_string(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data,
        labels: BTreeMap::new(),
    }
}
