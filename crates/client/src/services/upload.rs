//! One-time uploads: a context that comes from standard input.

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::StreamExt as _;
use kiln_proto::{
    limits::Limited as _,
    upload::{
        BytesMessage,
        upload_server::{Upload, UploadServer},
    },
};
use kiln_session::headers;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Outgoing, failed};

/// Bytes in one message.
const CHUNK: usize = 256 << 10;

/// Something to read, once.
pub(super) type Source = Box<dyn Read + Send>;

/// Uploads by id, each served once.
#[derive(Clone, Default)]
pub struct Uploads(Arc<Mutex<BTreeMap<String, Source>>>);

impl Uploads {
    /// The host of the URLs that stand for uploads.
    pub const HOST: &'static str = "buildkit-session";

    /// No uploads.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one, and says the URL that stands for it.
    #[must_use]
    pub fn add(&self, source: Source) -> String {
        let id = kiln_session::random_id();
        let url = format!("http://{}/{id}", Self::HOST);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, source);
        url
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> UploadServer<Self> {
        UploadServer::new(self.clone()).limited()
    }
}

#[tonic::async_trait]
impl Upload for Uploads {
    type PullStream = Outgoing<BytesMessage>;

    async fn pull(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let text = |name: &str| {
            call.metadata().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (host, path) = (text(headers::UPLOAD_HOST), text(headers::UPLOAD_PATH));
        let id = path.rsplit('/').next().unwrap_or_default();
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let source = found.filter(|_| host == Self::HOST).ok_or_else(|| {
            Status::not_found(format!("no upload http://{host}{path}, or it was read before"))
        })?;
        let (chunks, outgoing) = mpsc::channel(8);
        tokio::task::spawn_blocking(move || read_all(source, &chunks));
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }
}

fn read_all(mut source: Source, chunks: &mpsc::Sender<Result<BytesMessage, Status>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let message = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => Ok(BytesMessage { data: Bytes::copy_from_slice(&buffer[..n]) }),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Err(failed(format!("reading the upload: {error}"))),
        };
        let last = message.is_err();
        if chunks.blocking_send(message).is_err() || last {
            return;
        }
    }
}
