//! The sending end: one thread walks, a few read what is asked for, a task listens.

use std::fmt::Display;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as queue};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kiln_proto::fsutil::packet::PacketType;
use kiln_proto::fsutil::{Packet, Stat};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::burst::Burst;
use super::{ExtraFile, Progress, Sent, Tree, packet};
use crate::dir::Dir;
use crate::error::{Context as _, Error, Result};
use crate::meta::go_mode;
use crate::names::{compare, os_name, os_path, split};
use crate::walk::FilteredWalk;

/// Threads that read files. More than cores, since disks have queues.
const READERS: usize = 4;
/// Bytes of a file in one packet.
const CHUNK: usize = 64 * 1024;
/// Requests that are handed to a reader at once.
const BATCH: usize = 64;

/// See [`send`](super::send).
pub(super) async fn send<S, E>(
    trees: Vec<Tree>,
    mut incoming: S,
    outgoing: mpsc::Sender<Packet>,
    progress: Option<Progress>,
) -> Result<Sent>
where
    S: Stream<Item = std::result::Result<Packet, E>> + Send + Unpin,
    E: Display,
{
    let sender = Arc::new(Sender { trees, progress, outgoing, ..Sender::default() });
    let _stop = StopOnDrop(sender.clone());
    let (requests, queue) = queue::channel::<Vec<u32>>();
    let queue = Arc::new(Mutex::new(queue));
    let mut threads = JoinSet::new();
    let walker = sender.clone();
    threads.spawn_blocking(move || walker.walk());
    for _ in 0..READERS {
        let (reader, queue) = (sender.clone(), queue.clone());
        threads.spawn_blocking(move || reader.read_requested(&queue));
    }
    let done = async {
        let mut batches = (&mut incoming).ready_chunks(BATCH);
        loop {
            tokio::select! {
                batch = batches.next() => {
                    let batch = batch.ok_or_else(|| Error::Transport("the receiver went away".to_owned()))?;
                    if sender.listen(batch, &requests)? {
                        return Ok(());
                    }
                }
                Some(ended) = threads.join_next() => ended.map_err(|e| Error::Transport(e.to_string()))??,
            }
        }
    }
    .await;
    drop(requests);
    if let Err(error) = done {
        sender.stop.store(true, Ordering::Relaxed);
        super::tell(&sender.outgoing, &error).await;
        return Err(error);
    }
    while let Some(ended) = threads.join_next().await {
        ended.map_err(|e| Error::Transport(e.to_string()))??;
    }
    // The receiver has all it wants. If it is gone already, so much the better.
    sender.outgoing.send(packet(PacketType::PacketFin)).await.unwrap_or_default();
    sender.advance(0, true);
    Ok(sender.sent())
}

struct Sender {
    trees: Vec<Tree>,
    outgoing: mpsc::Sender<Packet>,
    progress: Option<Progress>,
    /// By id: the file, until it is asked for.
    files: Mutex<Vec<Option<Offered>>>,
    stop: AtomicBool,
    wire: AtomicU64,
    requested: AtomicU64,
    content: AtomicU64,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            trees: Vec::new(),
            outgoing: mpsc::channel(1).0,
            progress: None,
            files: Mutex::default(),
            stop: AtomicBool::new(false),
            wire: AtomicU64::new(0),
            requested: AtomicU64::new(0),
            content: AtomicU64::new(0),
        }
    }
}

#[derive(Clone)]
enum Offered {
    Disk { tree: usize, path: Bytes, size: u64 },
    Memory(Bytes),
}

struct StopOnDrop(Arc<Sender>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Sender {
    /// Handles packets of the receiver. True: it has said that it is done.
    fn listen<E: Display>(
        &self,
        batch: Vec<std::result::Result<Packet, E>>,
        requests: &queue::Sender<Vec<u32>>,
    ) -> Result<bool> {
        let mut ids = Vec::new();
        let mut finished = false;
        for received in batch {
            let received = received.map_err(|e| Error::Transport(e.to_string()))?;
            match PacketType::try_from(received.r#type) {
                Ok(PacketType::PacketReq) => ids.push(received.id),
                Ok(PacketType::PacketFin) => finished = true,
                Ok(PacketType::PacketErr) => {
                    return Err(Error::Receiver(String::from_utf8_lossy(&received.data).into_owned()));
                }
                _ => {
                    return Err(Error::Protocol(format!(
                        "packet of type {} from a receiver",
                        received.r#type
                    )));
                }
            }
        }
        if !ids.is_empty() {
            // If the readers have ended, one of them has an error that is about to be seen.
            requests.send(ids).unwrap_or_default();
        }
        Ok(finished)
    }

    fn walk(&self) -> Result<()> {
        let mut burst = Burst::new(|packet| self.put(packet));
        for (index, tree) in self.trees.iter().enumerate() {
            if let Some(folder) = &tree.at {
                burst.push(self.offer(folder.clone(), None))?;
            }
            self.walk_tree(index, tree, |packet| burst.push(packet))?;
        }
        burst.push(packet(PacketType::PacketStat))?;
        burst.flush()
    }

    fn walk_tree(&self, index: usize, tree: &Tree, mut put: impl FnMut(Packet) -> Result<()>) -> Result<()> {
        let mut extra: Vec<&ExtraFile> = tree.extra.iter().collect();
        extra.sort_by(|a, b| compare(&a.stat.path, &b.stat.path));
        let mut extra = extra.into_iter().peekable();
        for stat in FilteredWalk::new(&tree.root, &tree.filter, true)? {
            let stat = stat?;
            while let Some(file) = extra.next_if(|e| compare(&e.stat.path, &stat.path).is_lt()) {
                put(self.offer_extra(tree, file))?;
            }
            if extra.peek().is_some_and(|e| e.stat.path == stat.path) {
                continue;
            }
            let size = u64::try_from(stat.size).unwrap_or(0);
            let file = Offered::Disk { tree: index, path: stat.path.clone(), size };
            put(self.offer(placed(stat, tree), Some(file)))?;
        }
        extra.try_for_each(|file| put(self.offer_extra(tree, file)))
    }

    fn offer_extra(&self, tree: &Tree, file: &ExtraFile) -> Packet {
        let size = i64::try_from(file.data.len()).unwrap_or(i64::MAX);
        let stat = Stat { size, ..file.stat.clone() };
        self.offer(placed(stat, tree), Some(Offered::Memory(file.data.clone())))
    }

    /// What tells one entry. What to read when it is asked for is remembered.
    fn offer(&self, stat: Stat, file: Option<Offered>) -> Packet {
        let file = file.filter(|_| stat.mode & go_mode::TYPE == 0);
        self.files.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        self.advance(stat.encoded_len(), false);
        Packet { stat: Some(stat), ..packet(PacketType::PacketStat) }
    }

    fn put(&self, packet: Packet) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Canceled);
        }
        let packet = match self.outgoing.try_send(packet) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(packet)) => packet,
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(gone()),
        };
        self.outgoing.blocking_send(packet).map_err(|_| gone())
    }

    fn read_requested(&self, queue: &Mutex<queue::Receiver<Vec<u32>>>) -> Result<()> {
        let mut folder = None;
        let mut burst = Burst::new(|packet| self.put(packet));
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(ids) = next else { return Ok(()) };
            for id in ids {
                let file = {
                    let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
                    usize::try_from(id).ok().and_then(|i| files.get_mut(i)).and_then(Option::take)
                };
                let file = file.ok_or_else(|| Error::Protocol(format!("invalid file id {id}")))?;
                self.requested.fetch_add(1, Ordering::Relaxed);
                let mut put = |data| burst.push(self.data(id, data));
                match file {
                    Offered::Memory(data) => send_memory(&data, &mut put)?,
                    Offered::Disk { tree, path, size } => {
                        self.send_disk(tree, &path, size, &mut folder, &mut put)?;
                    }
                }
                burst.push(Packet { id, ..packet(PacketType::PacketData) })?;
            }
            burst.flush()?;
        }
    }

    /// `folder` is the one that was read from last.
    fn send_disk(
        &self,
        tree: usize,
        path: &Bytes,
        size: u64,
        folder: &mut Option<Folder>,
        put: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        let (dir_path, name) = split(path);
        let at = || os_path(path).unwrap_or_default();
        if folder.as_ref().is_none_or(|f| f.tree != tree || f.path != dir_path) {
            let dir = match self.trees[tree].root.open_dir(os_path(dir_path).at("open", at())?) {
                // What has gone since it was told arrives empty: the walk that told it is over.
                Err(e) if e.is_not_found() => return Ok(()),
                opened => opened?,
            };
            *folder = Some(Folder { tree, path: path.slice_ref(dir_path), dir });
        }
        let Some(folder) = folder else { return Ok(()) };
        let mut file = match folder.dir.open_file(&os_name(name).at("open", at())?) {
            Err(e) if e.kind() == io::ErrorKind::NotFound || is_socket(&e) => return Ok(()),
            opened => opened.at("open", at())?,
        };
        // One byte more than there should be, so that one read both gets everything and sees the end.
        let room = usize::try_from(size.saturating_add(1)).unwrap_or(CHUNK).min(CHUNK);
        loop {
            let mut data = vec![0; room];
            let len = match file.read(&mut data) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read.at("read", at())?,
            };
            if len == 0 {
                return Ok(());
            }
            data.truncate(len);
            put(data.into())?;
            if len < room && len as u64 == size {
                return Ok(());
            }
        }
    }

    fn data(&self, id: u32, data: Bytes) -> Packet {
        self.content.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.advance(data.len(), false);
        Packet { id, data, ..packet(PacketType::PacketData) }
    }

    fn advance(&self, bytes: usize, last: bool) {
        let total = self.wire.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if let Some(progress) = &self.progress {
            progress(total, last);
        }
    }

    fn sent(&self) -> Sent {
        Sent {
            entries: self.files.lock().unwrap_or_else(PoisonError::into_inner).len() as u64,
            files: self.requested.load(Ordering::Relaxed),
            bytes: self.content.load(Ordering::Relaxed),
        }
    }
}

fn send_memory(data: &Bytes, put: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
    (0..data.len()).step_by(CHUNK).try_for_each(|at| put(data.slice(at..data.len().min(at + CHUNK))))
}

struct Folder {
    tree: usize,
    path: Bytes,
    dir: Dir,
}

fn gone() -> Error {
    Error::Transport("the receiver went away".to_owned())
}

/// Opening a socket fails in a way that only sockets (and devices without a driver) do.
fn is_socket(e: &io::Error) -> bool {
    const ENXIO: i32 = 6;
    cfg!(unix) && e.raw_os_error() == Some(ENXIO)
}

/// Moves an entry, and what it links to, into the folder of its tree.
fn placed(mut stat: Stat, tree: &Tree) -> Stat {
    let Some(folder) = &tree.at else { return stat };
    let join = |path: &[u8]| -> Bytes { [&folder.path[..], b"/", path].concat().into() };
    stat.path = join(&stat.path);
    if stat.mode & go_mode::SYMLINK != 0 {
        if let Some(target) = stat.linkname.strip_prefix(b"/") {
            stat.linkname = [b"/", &join(target)[..]].concat().into();
        }
    } else if !stat.linkname.is_empty() {
        stat.linkname = join(&stat.linkname);
    }
    stat
}
