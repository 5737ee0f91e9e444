//! A worker, a web server and a client.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use kiln_engine::VertexProgress;
use kiln_fstree::Root;
use kiln_oci::{Digest, Platform};
use kiln_proto::pb;
use kiln_registry::Registries;
use kiln_session::{Group, Manager, client::ClientSession};
use kiln_source::{Error, Source, SourceContext, SourceKey, Sources};
use kiln_store::{Options, SnapshotterKind, Store};
use kiln_worker::{ImmutableRef, Unpacked, Worker};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    task::JoinHandle,
};

/// Sources over a worker of their own. `None` where nothing can be mounted.
pub(crate) struct Fixture {
    pub(crate) sources: Sources,
    pub(crate) worker: Worker,
    dir: tempfile::TempDir,
}

pub(crate) fn fixture() -> Option<Fixture> {
    let dir = tempfile::tempdir().unwrap();
    for kind in [SnapshotterKind::Overlay, SnapshotterKind::Native] {
        match Store::open(dir.path(), &Options { snapshotter: Some(kind), boot_id: Some("boot".into()) }) {
            Ok(store) => {
                let worker = Worker::open(store).unwrap();
                let sources = Sources::new(worker.clone(), Registries::new(BTreeMap::new(), "kiln/test"));
                return Some(Fixture { sources, worker, dir });
            }
            Err(error) if error.is_mount_denied() => {}
            Err(error) => panic!("{error}"),
        }
    }
    println!("skipped: mounting is not permitted here");
    None
}

pub(crate) fn op(identifier: impl Into<String>, attrs: &[(&str, &str)]) -> pb::SourceOp {
    let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    pb::SourceOp { identifier: identifier.into(), attrs }
}

/// Nobody's sessions.
pub(crate) fn nobody() -> Group {
    Group::of(Arc::default(), Vec::new())
}

pub(crate) fn context(sessions: &Group) -> SourceContext {
    SourceContext { sessions: sessions.clone(), progress: VertexProgress::unseen(Digest::sha256("test")) }
}

impl Fixture {
    pub(crate) fn open(&self, op: &pb::SourceOp) -> Result<Source, Error> {
        self.sources.open(op, None, &Platform::parse("linux/amd64").unwrap())
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Key and tree, as one build has them.
    pub(crate) async fn build(
        &self,
        op: &pb::SourceOp,
        sessions: &Group,
    ) -> Result<(SourceKey, ImmutableRef), Error> {
        let (source, cx) = (self.open(op)?, context(sessions));
        let key = source.key(&cx, 0).await?;
        Ok((key, source.snapshot(&cx).await?.unwrap()))
    }
}

/// All files of a tree with their content, folders with a slash, links with an arrow.
pub(crate) fn files(tree: &ImmutableRef) -> Vec<String> {
    files_of(&tree.unpacked().unwrap())
}

pub(crate) fn files_of(tree: &Unpacked) -> Vec<String> {
    fn walk(root: &Root, path: &str, out: &mut Vec<String>) {
        for entry in root.list(path).unwrap() {
            let path = format!("{path}{}", entry.name.to_str().unwrap());
            let meta = root.stat(&path).unwrap();
            if meta.is_dir() {
                out.push(format!("{path}/"));
                walk(root, &format!("{path}/"), out);
            } else if meta.is_symlink() {
                out.push(format!("{path} -> {}", root.read_link(&path).unwrap().display()));
            } else {
                let content = root.read(&path, 1 << 20).unwrap();
                out.push(format!("{path}={}", String::from_utf8_lossy(&content)));
            }
        }
    }
    let mut out = Vec::new();
    walk(&tree.open().unwrap(), "", &mut out);
    out
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

/// Status, headers and body.
#[derive(Clone)]
pub(crate) struct Answer(&'static str, Vec<(&'static str, String)>, Vec<u8>);

impl Answer {
    pub(crate) fn status(status: &'static str) -> Self {
        Self(status, Vec::new(), Vec::new())
    }
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self("200 OK", Vec::new(), body.into())
    }
    pub(crate) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.1.push((name, value.to_string()));
        self
    }
}

/// A web server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap().to_string(), requests: Arc::default() };
        let (answer, requests) = (Arc::new(answer), server.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, requests) = (answer.clone(), requests.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut lines = Vec::new();
                    loop {
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line.trim().is_empty() {
                            break;
                        }
                        lines.push(line.trim().to_owned());
                    }
                    let Some((first, rest)) = lines.split_first() else { return };
                    let mut words = first.split(' ').map(str::to_owned);
                    let headers: BTreeMap<_, _> = rest
                        .iter()
                        .filter_map(|line| line.split_once(": "))
                        .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))
                        .collect();
                    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
                    stream.read_exact(&mut vec![0; length]).await.unwrap();
                    let (method, path) = (words.next().unwrap(), words.next().unwrap());
                    let request = Request { method, path, headers };
                    requests.lock().unwrap().push(request.clone());
                    let Answer(status, headers, body) = answer(&request);
                    let mut out = format!(
                        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n",
                        body.len()
                    );
                    for (name, value) in headers {
                        out += &format!("{name}: {value}\r\n");
                    }
                    stream.write_all((out + "\r\n").as_bytes()).await.ok();
                    if request.method != "HEAD" {
                        stream.write_all(&body).await.ok();
                    }
                    stream.shutdown().await.ok();
                });
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked since the last call: method and path.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.taken().into_iter().map(|r| format!("{} {}", r.method, r.path)).collect()
    }

    pub(crate) fn taken(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

/// A client that is connected, its group, and its task.
pub(crate) async fn connect(session: ClientSession) -> (Group, JoinHandle<()>) {
    let manager = Arc::new(Manager::default());
    let (near, far) = tokio::io::duplex(1 << 20);
    let opening = session.opening();
    let client = tokio::spawn(async move { session.serve(near).await.unwrap() });
    let (daemon, id) = (manager.clone(), opening.id.clone());
    tokio::spawn(async move { daemon.serve(opening, far).await.unwrap() });
    manager.get(&id, Duration::from_secs(5)).await.unwrap();
    (Group::of(manager, vec![id]), client)
}
