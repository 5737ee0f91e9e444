//! A registry that does what it is told, and a place where steps can leave word.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use super::{Image, PATIENCE};

/// Serves one image as `<address>/base:latest`, takes marks at `/mark/<word>`, and notes what is pushed.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    manifests: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
    layers: Vec<String>,
    marks: BTreeMap<String, Instant>,
    /// What is done to the answers for layers.
    manner: Manner,
    /// Ranges of layers that were asked for.
    asked: Vec<(String, u64)>,
    pushed: Vec<Pushed>,
}

/// What came to the registry, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The bytes of a blob.
    Blob(Vec<u8>),
    /// Tag or digest of a manifest.
    Manifest(String),
}

/// How layers are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As they are.
    #[default]
    Well,
    /// Half of what is left, then the connection breaks.
    Halves,
    /// Half of what is left, then the connection breaks; and no second time.
    Breaks,
    /// The half of it as if that were all.
    Truncated,
    /// Errors of the server for so many requests, then well.
    Busy(u32),
}

impl Registry {
    pub(crate) fn start(image: &Image) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = server.clone();
                // A client that goes away in the middle is none of our troubles.
                std::thread::spawn(move || drop(serve(&shared, stream)));
            }
        });
        let registry = Self { address, shared };
        registry.hold(image);
        registry
    }

    /// Serves this image from now on.
    pub(crate) fn hold(&self, image: &Image) {
        let mut state = self.shared.state.lock().unwrap();
        state.manifests.clone_from(&image.manifest);
        state.blobs = image.blobs.iter().map(|(digest, blob)| (digest.to_string(), blob.clone())).collect();
        state.layers = image.layers.iter().map(ToString::to_string).collect();
    }

    pub(crate) fn behave(&self, manner: Manner) {
        let mut state = self.shared.state.lock().unwrap();
        state.manner = manner;
        state.asked.clear();
    }

    /// The layers that were asked for since it was told how to behave, and from which byte on.
    pub(crate) fn asked(&self) -> Vec<(String, u64)> {
        self.shared.state.lock().unwrap().asked.clone()
    }

    /// Steps that ask for `/may/<word>` find it from now on.
    pub(crate) fn allow(&self, word: &str) {
        self.shared.state.lock().unwrap().blobs.insert(word.to_owned(), Vec::new());
    }

    /// Everything that was pushed so far.
    pub(crate) fn pushed(&self) -> Vec<Pushed> {
        self.shared.state.lock().unwrap().pushed.clone()
    }

    /// The configuration by which a daemon finds it.
    pub(crate) fn config(&self) -> String {
        format!("[registry.{:?}]\nhttp = true\n", self.address)
    }

    /// Forgets all marks.
    pub(crate) fn forget(&self) {
        self.shared.state.lock().unwrap().marks.clear();
    }

    /// When the mark was made, if it was.
    pub(crate) fn mark(&self, word: &str) -> Option<Instant> {
        self.shared.state.lock().unwrap().marks.get(word).copied()
    }

    /// Waits for a mark. The first request for a layer is the mark `layer`.
    pub(crate) fn wait(&self, word: &str) -> Instant {
        let start = Instant::now();
        let mut state = self.shared.state.lock().unwrap();
        loop {
            if let Some(at) = state.marks.get(word) {
                return *at;
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "no step says {word}");
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

fn serve(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut input = BufReader::new(stream.try_clone()?);
    loop {
        let mut first = String::new();
        if input.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut range, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(from) = line.strip_prefix("range: bytes=") {
                range = from.trim_end_matches('-').parse().unwrap();
            }
            if let Some(bytes) = line.strip_prefix("content-length: ") {
                length = bytes.parse().unwrap();
            }
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut body = Vec::new();
        input.by_ref().take(length).read_to_end(&mut body)?;
        let goes_on = match method {
            "POST" | "PUT" => take(shared, &stream, method == "POST", path, body)?,
            _ => answer(shared, &stream, method == "HEAD", path, range)?,
        };
        if !goes_on {
            return Ok(());
        }
    }
}

/// Begins the upload of a blob, or takes all of one or a manifest.
fn take(
    shared: &Shared,
    mut out: &TcpStream,
    begins: bool,
    path: &str,
    body: Vec<u8>,
) -> std::io::Result<bool> {
    if begins {
        write!(out, "HTTP/1.1 202 Accepted\r\nLocation: {path}one\r\nContent-Length: 0\r\n\r\n")?;
    } else {
        let mut state = shared.state.lock().unwrap();
        if let Some((_, name)) = path.split_once("/manifests/") {
            state.pushed.push(Pushed::Manifest(name.to_owned()));
        } else {
            state.blobs.insert(kiln_oci::Digest::sha256(&body).to_string(), body.clone());
            state.pushed.push(Pushed::Blob(body));
        }
        drop(state);
        write!(out, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")?;
    }
    out.flush()?;
    Ok(true)
}

/// False: the connection ends.
fn answer(shared: &Shared, mut out: &TcpStream, head: bool, path: &str, from: u64) -> std::io::Result<bool> {
    let mut send = |status: &str, headers: &str, promised: usize, body: &[u8]| {
        write!(out, "HTTP/1.1 {status}\r\n{headers}Content-Length: {promised}\r\n\r\n")?;
        if !head {
            out.write_all(body)?;
        }
        out.flush()
    };
    let mut state = shared.state.lock().unwrap();
    if let Some(word) = path.strip_prefix("/mark/") {
        state.marks.insert(word.to_owned(), Instant::now());
        drop(state);
        shared.changed.notify_all();
        send("200 OK", "", 0, b"")?;
        return Ok(true);
    }
    if path.contains("/manifests/") {
        let manifest = state.manifests.clone();
        drop(state);
        let headers = format!(
            "Content-Type: {}\r\nDocker-Content-Digest: {}\r\n",
            kiln_oci::media_type::OCI_MANIFEST,
            kiln_oci::Digest::sha256(&manifest)
        );
        send("200 OK", &headers, manifest.len(), &manifest)?;
        return Ok(true);
    }
    let digest = path.rsplit('/').next().unwrap_or_default().to_owned();
    let Some(blob) = state.blobs.get(&digest).cloned() else {
        drop(state);
        send("404 Not Found", "", 0, b"")?;
        return Ok(true);
    };
    let mut manner = Manner::Well;
    if state.layers.contains(&digest) && !head {
        state.marks.entry("layer".to_owned()).or_insert_with(Instant::now);
        state.asked.push((digest, from));
        manner = state.manner;
        if let Manner::Busy(times) = manner {
            state.manner = if times > 1 { Manner::Busy(times - 1) } else { Manner::Well };
        }
        if manner == Manner::Breaks && from > 0 {
            manner = Manner::Busy(1);
        }
    }
    drop(state);
    shared.changed.notify_all();
    let rest = &blob[usize::try_from(from).unwrap_or(usize::MAX).min(blob.len())..];
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let half = &rest[..rest.len() / 2];
    match manner {
        Manner::Well => send(status, "", rest.len(), rest).map(|()| true),
        Manner::Halves if rest.len() < 100_000 => send(status, "", rest.len(), rest).map(|()| true),
        Manner::Halves | Manner::Breaks => send(status, "", rest.len(), half).map(|()| false),
        Manner::Truncated if from > 0 => send(status, "", 0, b"").map(|()| true),
        Manner::Truncated => send(status, "", half.len(), half).map(|()| true),
        Manner::Busy(_) => send("503 Service Unavailable", "", 0, b"").map(|()| true),
    }
}
