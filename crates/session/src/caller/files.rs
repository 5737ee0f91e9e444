//! Files from the client's folders, and results into the client's outputs.

use std::collections::BTreeMap;

use bytes::Bytes;
use kiln_proto::{
    filesync::{BytesMessage, file_send_client::FileSendClient, file_sync_client::FileSyncClient},
    fsutil::Packet,
    limits::{Limited as _, MAX_MESSAGE},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
};

use crate::{Error, Incoming, Session, headers};

const RECEIVE: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Packets or chunks that wait to be sent.
const QUEUE: usize = 128;
/// Bytes of a file in one message.
const CHUNK: usize = 1 << 20;

/// What to ask of one of the client's folders.
#[derive(Clone, Debug, Default)]
pub struct FileSyncRequest {
    /// The folder's name, such as `context`.
    pub dir_name: String,
    /// Patterns of what to send; none for all.
    pub include_patterns: Vec<String>,
    /// Patterns of what not to send.
    pub exclude_patterns: Vec<String>,
    /// Paths to send with whatever their links lead to.
    pub follow_paths: Vec<String>,
}

/// Both directions of the diff-copy protocol.
pub struct PacketStreams {
    /// To the client; dropping it ends the stream.
    pub outgoing: mpsc::Sender<Packet>,
    /// From the client.
    pub incoming: Incoming<Packet>,
}

/// Opens the transfer of a folder from the client, which is the protocol's sender.
///
/// # Errors
/// [`Error::Unsupported`]; the client's errors, such as for a folder that it does not offer, come with the first packet.
pub fn receive_files(session: &Session, request: &FileSyncRequest) -> Result<PacketStreams, Error> {
    session.require(RECEIVE)?;
    let (outgoing, packets) = mpsc::channel(QUEUE);
    let mut call = Request::new(ReceiverStream::new(packets));
    let metadata = call.metadata_mut();
    headers::put_list(metadata, headers::DIR_NAME, std::slice::from_ref(&request.dir_name));
    headers::put_list(metadata, headers::INCLUDE_PATTERNS, &request.include_patterns);
    headers::put_list(metadata, headers::EXCLUDE_PATTERNS, &request.exclude_patterns);
    headers::put_list(metadata, headers::FOLLOW_PATHS, &request.follow_paths);
    let mut client = FileSyncClient::new(session.channel()).limited();
    let incoming = Incoming::open(async move { client.diff_copy(call).await });
    Ok(PacketStreams { outgoing, incoming })
}

/// Opens the transfer of a folder to the client's output number `exporter`; the daemon is the protocol's sender.
///
/// # Errors
/// [`Error::Unsupported`], or the client's.
pub async fn send_files(session: &Session, exporter: usize) -> Result<PacketStreams, Error> {
    session.require(SEND)?;
    let (outgoing, packets) = mpsc::channel(QUEUE);
    let mut call = Request::new(ReceiverStream::new(packets));
    let metadata = call.metadata_mut();
    metadata.insert(headers::EXPORTER_ID, exporter.into());
    metadata.insert(headers::EXPORTER_MULTI_PLATFORM, AsciiMetadataValue::from_static("1"));
    // One method, two kinds of messages: a folder's transfer speaks packets where the definition says bytes.
    let mut client = tonic::client::Grpc::new(session.channel())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static(SEND);
    let codec = tonic_prost::ProstCodec::<Packet, Packet>::default();
    let incoming = Incoming::open(async move { client.streaming(call, path, codec).await });
    Ok(PacketStreams { outgoing, incoming })
}

/// A file that is being written into one of the client's outputs.
pub struct FileWriter {
    outgoing: mpsc::Sender<BytesMessage>,
    incoming: Incoming<BytesMessage>,
}

/// Opens a file in the client's output number `exporter`; `metadata` reaches the client before any byte.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Header`]; the client's errors come when it is written to.
pub fn send_file(
    session: &Session,
    exporter: usize,
    metadata: &BTreeMap<String, String>,
) -> Result<FileWriter, Error> {
    session.require(SEND)?;
    let (outgoing, chunks) = mpsc::channel(QUEUE);
    let mut call = Request::new(ReceiverStream::new(chunks));
    put_exporter(call.metadata_mut(), exporter, metadata)?;
    let mut client = FileSendClient::new(session.channel()).limited();
    let incoming = Incoming::open(async move { client.diff_copy(call).await });
    Ok(FileWriter { outgoing, incoming })
}

fn put_exporter(
    headers: &mut MetadataMap,
    exporter: usize,
    metadata: &BTreeMap<String, String>,
) -> Result<(), Error> {
    headers.insert(headers::EXPORTER_ID, exporter.into());
    for (name, value) in metadata {
        let bad = |problem: String| Error::Header { name: headers::EXPORTER_METADATA_PREFIX, problem };
        let key = format!("{}{name}", headers::EXPORTER_METADATA_PREFIX)
            .parse::<AsciiMetadataKey>()
            .map_err(|_| bad(format!("{name:?} cannot be a header's name")))?;
        let value =
            value.parse().map_err(|_| bad(format!("the value of {name:?} cannot be a header's value")))?;
        headers.insert(key, value);
    }
    Ok(())
}

impl FileWriter {
    /// Appends bytes.
    ///
    /// # Errors
    /// The client's, when it stopped taking them.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let data = bytes.split_to(bytes.len().min(CHUNK));
            if self.outgoing.send(BytesMessage { data }).await.is_err() {
                return Err(self.verdict().await.err().unwrap_or_else(|| {
                    tonic::Status::aborted("the client closed the output before all of it was written").into()
                }));
            }
        }
        Ok(())
    }

    /// Ends the file, and waits until the client has all of it.
    ///
    /// # Errors
    /// The client's.
    pub async fn close(mut self) -> Result<(), Error> {
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.outgoing, closed));
        self.verdict().await
    }

    async fn verdict(&mut self) -> Result<(), Error> {
        while self.incoming.message().await?.is_some() {}
        Ok(())
    }
}
