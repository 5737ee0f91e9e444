//! What a build made, as the daemon sends it: one file, or a folder.
//!
//! Both come by the same method, `FileSend/DiffCopy`, with different messages in it: raw bytes for a file, packets of the
//! diff-copy protocol for a folder. Which of them is decided by the exporter that the stream's header names.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::{DirBuilder, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use kiln_fstree::{
    Root,
    diffcopy::{self, Compare, ReceiveFilter, ReceiveOptions},
};
use kiln_proto::{filesync::BytesMessage, fsutil::Packet, limits::MAX_MESSAGE};
use kiln_session::headers;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstCodec;

use super::{Outgoing, failed};

/// Messages that wait.
const QUEUE: usize = 64;
/// What is written to a file at once, in bytes.
const WRITE_BUFFER: usize = 1 << 20;

/// Where one exporter's result goes.
#[derive(Debug)]
pub enum Target {
    /// A file that is open already, so that a path that cannot be written is found before the build.
    File(File),
    /// Our standard output.
    Stdout,
    /// A program's standard input; the result is there when it ends well.
    Program(Vec<String>),
    /// A folder.
    Dir {
        /// Which; it is made if it is not there.
        path: PathBuf,
        /// Remove from it what is not in the result.
        delete: bool,
    },
}

/// Targets by the number of their exporter in the request.
#[derive(Clone, Debug, Default)]
pub struct Results(Arc<BTreeMap<usize, Mutex<Target>>>);

impl Results {
    /// The service for these targets.
    #[must_use]
    pub fn new(targets: BTreeMap<usize, Target>) -> Self {
        Self(Arc::new(targets.into_iter().map(|(id, target)| (id, Mutex::new(target))).collect()))
    }

    /// The folder of the exporter that `headers` name, if it has one.
    fn folder(&self, id: usize) -> Option<(PathBuf, bool)> {
        match &*self.0.get(&id)?.lock().unwrap_or_else(PoisonError::into_inner) {
            Target::Dir { path, delete } => Some((path.clone(), *delete)),
            _ => None,
        }
    }

    /// Where the bytes of an exporter go.
    fn writer(&self, id: usize) -> io::Result<Sink> {
        let target = self.0.get(&id).ok_or_else(|| io::Error::other(format!("exporter {id} not found")))?;
        Ok(match &*target.lock().unwrap_or_else(PoisonError::into_inner) {
            Target::File(file) => Sink { out: Box::new(file.try_clone()?), program: None },
            Target::Stdout => Sink { out: Box::new(io::stdout()), program: None },
            Target::Program(words) => Sink::program(words)?,
            Target::Dir { .. } => return Err(io::Error::other(format!("exporter {id} writes a folder"))),
        })
    }
}

/// Where bytes go, and the program that must end well for them to have arrived.
struct Sink {
    out: Box<dyn Write + Send>,
    program: Option<(std::process::Child, String)>,
}

impl Sink {
    fn program(words: &[String]) -> io::Result<Self> {
        let (name, args) =
            words.split_first().ok_or_else(|| io::Error::other("no program to hand the result to"))?;
        let mut child = Command::new(name)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("starting {name}: {error}")))?;
        let out =
            child.stdin.take().ok_or_else(|| io::Error::other(format!("{name} has no standard input")))?;
        Ok(Self { out: Box::new(out), program: Some((child, words.join(" "))) })
    }

    /// Writes all that comes. Runs on a thread of its own.
    fn write_all(self, mut chunks: mpsc::Receiver<Bytes>) -> io::Result<()> {
        let Self { out, program } = self;
        let mut out = BufWriter::with_capacity(WRITE_BUFFER, out);
        while let Some(chunk) = chunks.blocking_recv() {
            out.write_all(&chunk)?;
        }
        out.flush()?;
        drop(out);
        let Some((mut child, name)) = program else { return Ok(()) };
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("{name}: {status}"))) }
    }
}

/// The number of the exporter that a call is for; a missing or bad one means the first.
fn exporter_id(headers: &http::HeaderMap) -> usize {
    headers
        .get(headers::EXPORTER_ID)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok())
        .unwrap_or_default()
}

#[derive(Clone)]
struct ReceiveFile(Results);

impl StreamingService<BytesMessage> for ReceiveFile {
    type Response = BytesMessage;
    type ResponseStream = Outgoing<BytesMessage>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, call: Request<Streaming<BytesMessage>>) -> Self::Future {
        let results = self.0.clone();
        async move {
            let id = exporter_id(call.metadata().as_ref());
            let sink = results.writer(id).map_err(failed)?;
            let answer = receive_file(sink, call.into_inner());
            // The stream's end is the answer: it has no messages, only an error or none.
            let stream = answer.into_stream().filter_map(|result| async move { result.err().map(Err) });
            Ok(Response::new(stream.boxed() as Self::ResponseStream))
        }
        .boxed()
    }
}

async fn receive_file(sink: Sink, mut incoming: Streaming<BytesMessage>) -> Result<(), Status> {
    let (chunks, receiver) = mpsc::channel(QUEUE);
    let writer = tokio::task::spawn_blocking(move || sink.write_all(receiver));
    while let Some(message) = incoming.message().await? {
        if chunks.send(message.data).await.is_err() {
            break;
        }
    }
    drop(chunks);
    writer.await.map_err(failed)?.map_err(|error| failed(format!("writing the result: {error}")))
}

#[derive(Clone)]
struct ReceiveDir(PathBuf, bool);

impl StreamingService<Packet> for ReceiveDir {
    type Response = Packet;
    type ResponseStream = Outgoing<Packet>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, call: Request<Streaming<Packet>>) -> Self::Future {
        let Self(path, delete) = self.clone();
        async move {
            let whole = call.metadata().get(headers::EXPORTER_MULTI_PLATFORM).is_some_and(|v| v == "1");
            if delete && !whole {
                return Err(failed(
                    "mode=delete needs a daemon that sends all platforms in one transfer; this one does not",
                ));
            }
            let root = open_or_make(&path).map_err(failed)?;
            let (packets, outgoing) = mpsc::channel(QUEUE);
            let options = ReceiveOptions {
                merge: !delete,
                compare: Compare::Nothing,
                filter: own(),
                ..ReceiveOptions::default()
            };
            let incoming = call.into_inner();
            // An error is told to the daemon in a packet, and the daemon's are its own.
            tokio::spawn(async move { drop(diffcopy::receive(root, incoming, packets, options).await) });
            Ok(Response::new(ReceiverStream::new(outgoing).map(Ok).boxed() as Self::ResponseStream))
        }
        .boxed()
    }
}

/// The folder, which nobody else may look into if it has to be made.
fn open_or_make(path: &Path) -> Result<Root, String> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    private(&mut builder);
    builder.create(path).map_err(|error| format!("making {}: {error}", path.display()))?;
    Root::open(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(unix)]
fn private(builder: &mut DirBuilder) {
    use std::os::unix::fs::DirBuilderExt as _;
    builder.mode(0o700);
}

#[cfg(not(unix))]
fn private(_builder: &mut DirBuilder) {}

/// What arrives belongs to whoever runs the client.
#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other hosts have no owners to set")]
fn own() -> Option<ReceiveFilter> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    Some(Arc::new(move |stat: &mut kiln_proto::fsutil::Stat| {
        (stat.uid, stat.gid) = (uid, gid);
        true
    }))
}

#[cfg(not(unix))]
fn own() -> Option<ReceiveFilter> {
    None
}

impl NamedService for Results {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl tower::Service<http::Request<Body>> for Results {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let results = self.clone();
        async move {
            if request.uri().path() != "/moby.filesync.v1.FileSend/DiffCopy" {
                return Ok(Status::unimplemented("no such method of FileSend").into_http());
            }
            let response = match results.folder(exporter_id(request.headers())) {
                Some((path, delete)) => {
                    let codec = ProstCodec::<Packet, Packet>::default();
                    let mut grpc =
                        Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), Some(MAX_MESSAGE));
                    grpc.streaming(ReceiveDir(path, delete), request).await
                }
                None => {
                    let codec = ProstCodec::<BytesMessage, BytesMessage>::default();
                    let mut grpc =
                        Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), Some(MAX_MESSAGE));
                    grpc.streaming(ReceiveFile(results), request).await
                }
            };
            Ok(response)
        }
        .boxed()
    }
}
