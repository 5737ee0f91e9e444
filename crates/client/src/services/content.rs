//! OCI layouts of the client, as stores of blobs that the daemon reads and writes.
//!
//! A stream's header names the store: `oci:<id>` of a named layout, `local:<folder>` of a cache, `export` of a result.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use futures::StreamExt as _;
use kiln_oci::{Digest, Hasher};
use kiln_proto::{
    content::{
        AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest,
        ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest,
        ReadContentResponse, StatusRequest, StatusResponse, UpdateRequest, UpdateResponse, WriteAction,
        WriteContentRequest, WriteContentResponse,
        content_server::{Content as Service, ContentServer},
    },
    limits::Limited as _,
};
use kiln_session::headers;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Layout, Outgoing, failed};

/// Bytes in one message.
const CHUNK: usize = 1 << 20;
/// Messages that wait.
const QUEUE: usize = 8;

/// Stores by id.
#[derive(Clone, Debug, Default)]
pub struct Content(Arc<BTreeMap<String, Layout>>);

impl Content {
    /// The service for these stores.
    #[must_use]
    pub fn new(stores: BTreeMap<String, Layout>) -> ContentServer<Self> {
        ContentServer::new(Self(Arc::new(stores))).limited()
    }

    fn store<T>(&self, call: &Request<T>) -> Result<Layout, Status> {
        let id = call.metadata().get(headers::STORE_ID).and_then(|v| v.to_str().ok()).unwrap_or_default();
        self.0.get(id).cloned().ok_or_else(|| Status::not_found(format!("no OCI layout is known as {id:?}")))
    }
}

fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn status_of(digest: &Digest, error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(format!("content {digest}: not found")),
        _ => failed(format!("content {digest}: {error}")),
    }
}

fn info(digest: &Digest, size: u64) -> Info {
    Info { digest: digest.to_string(), size: i64::try_from(size).unwrap_or(i64::MAX), ..Info::default() }
}

#[tonic::async_trait]
impl Service for Content {
    type ListStream = Outgoing<ListContentResponse>;
    type ReadStream = Outgoing<ReadContentResponse>;
    type WriteStream = Outgoing<WriteContentResponse>;

    async fn info(&self, call: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let store = self.store(&call)?;
        let digest = digest(&call.get_ref().digest)?;
        let size = fs::metadata(store.blob(&digest)).map_err(|error| status_of(&digest, &error))?.len();
        Ok(Response::new(InfoResponse { info: Some(info(&digest, size)) }))
    }

    async fn list(&self, call: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        if call.get_ref().filters.iter().any(|f| !f.is_empty()) {
            return Err(Status::unimplemented("content of an OCI layout is listed without filters"));
        }
        let blobs = self.store(&call)?.blobs().map_err(failed)?;
        let all =
            ListContentResponse { info: blobs.iter().map(|(digest, size)| info(digest, *size)).collect() };
        Ok(Response::new(futures::stream::iter([Ok(all)]).boxed()))
    }

    async fn read(&self, call: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let store = self.store(&call)?;
        let ReadContentRequest { digest: name, offset, size } = call.into_inner();
        let digest = digest(&name)?;
        let start = u64::try_from(offset).map_err(|_| Status::invalid_argument("a negative offset"))?;
        let wanted = u64::try_from(size).map_err(|_| Status::invalid_argument("a negative size"))?;
        let (file, left) = store.open_blob(&digest, start).map_err(|error| status_of(&digest, &error))?;
        let (chunks, outgoing) = mpsc::channel(QUEUE);
        let take = if wanted == 0 { left } else { wanted.min(left) };
        tokio::task::spawn_blocking(move || read_blob(file, offset, take, &chunks));
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }

    async fn write(
        &self,
        call: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let store = self.store(&call)?;
        let (answers, outgoing) = mpsc::channel(QUEUE);
        let incoming = call.into_inner();
        tokio::spawn(async move {
            if let Err(status) = write_blob(store, incoming, &answers).await {
                // A daemon that does not listen any more does not care.
                drop(answers.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }

    async fn status(&self, call: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::not_found(format!(
            "ingest {}: not found; writes are not resumed",
            call.into_inner().r#ref
        )))
    }

    async fn list_statuses(
        &self,
        _: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        Ok(Response::new(ListStatusesResponse::default()))
    }

    async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<()>, Status> {
        // A write that ends without a commit has left nothing.
        Ok(Response::new(()))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        Err(Status::unimplemented("blobs of an OCI layout have no labels"))
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("a daemon may not delete from a client's OCI layout"))
    }
}

fn read_blob(
    file: File,
    mut offset: i64,
    take: u64,
    chunks: &mpsc::Sender<Result<ReadContentResponse, Status>>,
) {
    let mut file = file.take(take);
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        let message = match (&mut file).take(CHUNK as u64).read_to_end(&mut data) {
            Ok(0) => return,
            Ok(n) => {
                let message = ReadContentResponse { offset, data: data.into() };
                offset += i64::try_from(n).unwrap_or_default();
                Ok(message)
            }
            Err(error) => Err(failed(error)),
        };
        let last = message.is_err();
        if chunks.blocking_send(message).is_err() || last {
            return;
        }
    }
}

/// One blob that is being written. Dropped without a commit, it is gone.
struct Ingest {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    offset: u64,
}

impl Ingest {
    fn begin(store: &Layout) -> io::Result<Self> {
        let dir = store.ingest();
        fs::create_dir_all(&dir)?;
        let path = dir.join(kiln_session::random_id());
        Ok(Self { file: File::create_new(&path)?, path, hasher: Hasher::sha256(), offset: 0 })
    }

    fn write(&mut self, offset: i64, data: &Bytes) -> Result<(), Status> {
        if data.is_empty() {
            return Ok(());
        }
        match u64::try_from(offset) {
            Ok(0) if self.offset > 0 => self.restart().map_err(failed)?,
            Ok(offset) if offset == self.offset => {}
            _ => {
                return Err(Status::out_of_range(format!(
                    "write at {offset}, but {} bytes are there",
                    self.offset
                )));
            }
        }
        self.file.write_all(data).map_err(failed)?;
        self.hasher.update(data);
        self.offset += data.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file = File::create(&self.path)?;
        self.hasher = Hasher::sha256();
        self.offset = 0;
        Ok(())
    }

    fn commit(&mut self, store: &Layout, total: i64, expected: &str) -> Result<Digest, Status> {
        let found = std::mem::replace(&mut self.hasher, Hasher::sha256()).finish();
        if total > 0 && u64::try_from(total).ok() != Some(self.offset) {
            return Err(Status::failed_precondition(format!("{} bytes came of {total}", self.offset)));
        }
        if !expected.is_empty() && expected != found.as_str() {
            return Err(Status::failed_precondition(format!("{expected} was promised, but {found} came")));
        }
        let path = store.blob(&found);
        let place = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::rename(&self.path, &path)
        };
        place().map_err(|error| failed(format!("content {found}: {error}")))?;
        Ok(found)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a commit the file is elsewhere, and that is fine.
        drop(fs::remove_file(&self.path));
    }
}

async fn write_blob(
    store: Layout,
    mut incoming: Streaming<WriteContentRequest>,
    answers: &mpsc::Sender<Result<WriteContentResponse, Status>>,
) -> Result<(), Status> {
    let mut ingest = Ingest::begin(&store).map_err(failed)?;
    let (mut total, mut expected) = (0, String::new());
    while let Some(message) = incoming.message().await? {
        if message.total > 0 {
            total = message.total;
        }
        if !message.expected.is_empty() {
            expected.clone_from(&message.expected);
        }
        if let Ok(digest) = Digest::parse(&expected)
            && store.blob(&digest).exists()
        {
            return Err(Status::already_exists(format!("content {digest}: already exists")));
        }
        let action = message.action();
        let mut answer =
            WriteContentResponse { action: action.into(), total, ..WriteContentResponse::default() };
        if action != WriteAction::Stat {
            ingest.write(message.offset, &message.data)?;
        }
        answer.offset = i64::try_from(ingest.offset).unwrap_or(i64::MAX);
        if action == WriteAction::Commit {
            answer.digest = ingest.commit(&store, total, &expected)?.to_string();
        }
        if answers.send(Ok(answer)).await.is_err() || action == WriteAction::Commit {
            break;
        }
    }
    Ok(())
}
