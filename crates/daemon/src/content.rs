//! The content service, read-only: clients fetch attestations and other blobs by digest.

use std::{fs::File, io::Read as _, pin::Pin};

use futures::Stream;
use kiln_oci::Digest;
use kiln_proto::content::{
    self, AbortRequest, DeleteContentRequest, InfoRequest, InfoResponse, ListContentRequest,
    ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse,
    StatusRequest, StatusResponse, UpdateRequest, UpdateResponse, WriteContentRequest, WriteContentResponse,
    content_server::Content,
};
use kiln_store::Store;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::history::History;

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes in one message.
const CHUNK: usize = 1 << 20;
/// Blobs in one message of a list.
const PAGE: usize = 100;

/// The blobs of a store, and those that records of builds name.
#[derive(Clone, Debug)]
pub(crate) struct ContentService(pub(crate) Store, pub(crate) History);

impl ContentService {
    /// A blob's file and its size.
    fn open(&self, digest: &Digest) -> Result<(File, u64), Status> {
        let missing = match self.0.content().blob(digest) {
            Ok(blob) => {
                let size = blob.size();
                return Ok((blob.into_file(), size));
            }
            Err(error) if error.is_not_found() => failed(&error),
            Err(error) => return Err(failed(&error)),
        };
        let io = |error: std::io::Error| Status::internal(format!("{digest}: {error}"));
        let file = self.1.blob(digest).map_err(io)?.ok_or(missing)?;
        let size = file.metadata().map_err(io)?.len();
        Ok((file, size))
    }
}

fn read_only() -> Status {
    Status::permission_denied("the daemon's content can only be read")
}

fn parse(digest: &str) -> Result<Digest, Status> {
    Digest::parse(digest).map_err(|e| Status::invalid_argument(format!("{digest}: {e}")))
}

fn failed(error: &kiln_store::Error) -> Status {
    if error.is_not_found() {
        Status::not_found(error.to_string())
    } else {
        Status::internal(error.to_string())
    }
}

fn info(digest: &Digest, size: u64) -> content::Info {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    content::Info { digest: digest.to_string(), size, ..Default::default() }
}

#[tonic::async_trait]
impl Content for ContentService {
    type ListStream = Messages<ListContentResponse>;
    type ReadStream = Messages<ReadContentResponse>;
    type WriteStream = Messages<WriteContentResponse>;

    async fn info(&self, request: Request<InfoRequest>) -> Answer<InfoResponse> {
        let digest = parse(&request.into_inner().digest)?;
        let size = match self.0.content().stat(&digest).map_err(|e| failed(&e))? {
            Some(found) => found.size,
            None => self.open(&digest)?.1,
        };
        Ok(InfoResponse { info: Some(info(&digest, size)) }.into())
    }

    async fn read(&self, request: Request<ReadContentRequest>) -> Answer<Self::ReadStream> {
        let request = request.into_inner();
        let digest = parse(&request.digest)?;
        let (mut file, size) = self.open(&digest)?;
        let offset =
            u64::try_from(request.offset).map_err(|_| Status::invalid_argument("a negative offset"))?;
        let wanted = u64::try_from(request.size).unwrap_or_default();
        let rest = size.saturating_sub(offset);
        let length = if wanted == 0 { rest } else { rest.min(wanted) };
        let (sender, messages) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            use std::io::Seek as _;
            let mut send = || -> Result<(), Status> {
                let io = |e: std::io::Error| Status::internal(format!("{digest}: {e}"));
                file.seek(std::io::SeekFrom::Start(offset)).map_err(io)?;
                let mut done = 0;
                while done < length {
                    let mut data = vec![0; CHUNK.min(usize::try_from(length - done).unwrap_or(CHUNK))];
                    file.read_exact(&mut data).map_err(io)?;
                    let at = i64::try_from(offset + done).unwrap_or(i64::MAX);
                    done += data.len() as u64;
                    let message = ReadContentResponse { offset: at, data: data.into() };
                    if sender.blocking_send(Ok(message)).is_err() {
                        // The client has enough.
                        break;
                    }
                }
                Ok(())
            };
            if let Err(status) = send() {
                drop(sender.blocking_send(Err(status)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Answer<UpdateResponse> {
        Err(read_only())
    }

    /// Every blob. Filters are refused: none could be honoured, as blobs have no labels here.
    async fn list(&self, request: Request<ListContentRequest>) -> Answer<Self::ListStream> {
        if request.into_inner().filters.iter().any(|filter| !filter.is_empty()) {
            return Err(Status::unimplemented("filters of a list of content are not supported yet"));
        }
        let content = self.0.content().clone();
        let (sender, messages) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let mut last: Option<Digest> = None;
            loop {
                let page = match content.list(last.as_ref(), PAGE) {
                    Ok(page) => page,
                    Err(error) => {
                        drop(sender.blocking_send(Err(failed(&error))));
                        return;
                    }
                };
                let Some(end) = page.last() else { return };
                last = Some(end.digest.clone());
                let info = page.into_iter().map(|blob| info(&blob.digest, blob.size)).collect();
                if sender.blocking_send(Ok(ListContentResponse { info })).is_err() {
                    // The client has enough.
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Answer<()> {
        Err(read_only())
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        Err(read_only())
    }

    async fn list_statuses(&self, _: Request<ListStatusesRequest>) -> Answer<ListStatusesResponse> {
        Ok(ListStatusesResponse::default().into())
    }

    async fn write(&self, _: Request<Streaming<WriteContentRequest>>) -> Answer<Self::WriteStream> {
        Err(read_only())
    }

    async fn abort(&self, _: Request<AbortRequest>) -> Answer<()> {
        Err(read_only())
    }
}
