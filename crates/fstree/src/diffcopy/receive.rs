//! The receiving end. Threads do the work, one task keeps them fed:
//!
//! ```text
//!            ┌─ STAT ─▶ differ ─ ids ─▶ REQ ─▶ outgoing
//! incoming ──┤             │ plan
//!            └─ DATA ─▶ writers ─ done ─▶ finisher ─▶ FIN
//! ```
//!
//! The differ is never held up by the sender: its requests are four bytes each and wait without limit, as a sender may
//! be writing to us while it doesn't read. Bytes of content that are in memory are bounded by a budget.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kiln_proto::fsutil::Packet;
use kiln_proto::fsutil::packet::PacketType;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};

use super::differ::{Differ, Plan, Requested, Told};
use super::order::Order;
use super::shares::Shares;
use super::write::{Data, Writer};
use super::{Change, Progress, ReceiveOptions, Received, packet};
use crate::Root;
use crate::cores::cores;
use crate::error::{Error, Result};

/// Packets that are handled at once when they are there.
const BATCH: usize = 256;
/// Batches that may wait for the differ, and for each writer.
const QUEUE: usize = 16;
/// Bytes of content in memory.
const BUDGET: usize = 16 << 20;
/// What a packet without content counts for in the budget.
const EMPTY: usize = 64;
/// How long the sender may take to close its stream after its last word, or to say why it no longer listens.
const GOODBYE: Duration = Duration::from_secs(5);

/// See [`receive`](super::receive).
pub(super) async fn receive<S, E>(
    dest: Root,
    incoming: S,
    outgoing: mpsc::Sender<Packet>,
    options: ReceiveOptions,
) -> Result<Received>
where
    S: Stream<Item = std::result::Result<Packet, E>> + Send + Unpin,
    E: Display,
{
    let root = Arc::new(dest);
    let mut threads = JoinSet::new();
    let result = match start(&root, &options, &mut threads) {
        Ok((pump, requests, done)) => {
            let finished = AtomicBool::new(false);
            let worked = tokio::try_join!(
                pump.run(incoming, &finished),
                forward(requests, &outgoing),
                finish(&root, &mut threads, done, &outgoing, &finished),
            );
            worked.map(|(counted, (), (changes, files))| Received { changes, files, ..counted })
        }
        Err(error) => Err(error),
    };
    // The tree is nobody's while a thread may still write to it. What these say now is a consequence.
    while threads.join_next().await.is_some() {}
    if let Err(error) = &result {
        super::tell(&outgoing, error).await;
    }
    result
}

/// How a thread ended.
enum Ended {
    Differ(Plan),
    Writer,
}

type Requests = mpsc::UnboundedReceiver<u32>;
type Done = mpsc::UnboundedReceiver<Vec<Change>>;

fn start(
    root: &Arc<Root>,
    options: &ReceiveOptions,
    threads: &mut JoinSet<Result<Ended>>,
) -> Result<(Pump, Requests, Done)> {
    let requested: Arc<Requested> = Arc::default();
    let (told, told_queue) = mpsc::channel(QUEUE);
    let (request, requests) = mpsc::unbounded_channel();
    let (done, done_queue) = mpsc::unbounded_channel();
    let differ = Differ::new(root, options.clone(), requested.clone(), request)?;
    let count = cores().clamp(2, 4);
    let mut writers = Vec::with_capacity(count);
    for _ in 0..count {
        let (data, queue) = mpsc::channel(QUEUE);
        let (writer, done) = (Writer::new(root, requested.clone(), BUDGET / 2 / count)?, done.clone());
        threads.spawn_blocking(move || writer.run(queue, &done).map(|()| Ended::Writer));
        writers.push((data, Vec::new()));
    }
    threads.spawn_blocking(move || differ.run(told_queue).map(Ended::Differ));
    let pump = Pump {
        told,
        shares: Shares::new(count),
        writers,
        order: Order::new(),
        entries: 0,
        complete: false,
        content: 0,
        wire: 0,
        budget: Arc::new(Semaphore::new(BUDGET)),
        progress: options.progress.clone(),
    };
    Ok((pump, requests, done_queue))
}

/// Reads packets and hands them to the threads.
struct Pump {
    told: mpsc::Sender<Option<Vec<Told>>>,
    /// With what is collected for each.
    writers: Vec<(mpsc::Sender<Vec<Data>>, Vec<Data>)>,
    /// Which of them has which file.
    shares: Shares,
    order: Order,
    entries: u32,
    /// The terminating STAT has come.
    complete: bool,
    content: u64,
    wire: u64,
    budget: Arc<Semaphore>,
    progress: Option<Progress>,
}

impl Pump {
    /// Ends when the sender has said its last word, or gone after we said ours.
    async fn run<S, E>(mut self, incoming: S, finished: &AtomicBool) -> Result<Received>
    where
        S: Stream<Item = std::result::Result<Packet, E>> + Send + Unpin,
        E: Display,
    {
        let mut batches = incoming.ready_chunks(BATCH);
        let mut farewell = false;
        while !farewell {
            let Some(batch) = batches.next().await else {
                if finished.load(Ordering::Acquire) {
                    break;
                }
                return Err(Error::Transport("the sender went away".to_owned()));
            };
            farewell = self.take(batch, finished).await?;
        }
        if farewell {
            // Closing first would look like a failure to the other end.
            let drained = async { while batches.next().await.is_some() {} };
            tokio::time::timeout(GOODBYE, drained).await.unwrap_or_default();
        }
        if let Some(progress) = &self.progress {
            progress(self.wire, true);
        }
        Ok(Received { entries: self.entries.into(), bytes: self.content, ..Received::default() })
    }

    /// True: that was the sender's last word.
    async fn take<E: Display>(
        &mut self,
        batch: Vec<std::result::Result<Packet, E>>,
        finished: &AtomicBool,
    ) -> Result<bool> {
        let mut stats = Vec::new();
        let mut farewell = false;
        for received in batch {
            let received = match received {
                Ok(received) => received,
                Err(_) if farewell || finished.load(Ordering::Acquire) => return Ok(true),
                Err(e) => return Err(Error::Transport(e.to_string())),
            };
            self.wire += received.encoded_len() as u64;
            match PacketType::try_from(received.r#type) {
                Ok(PacketType::PacketStat) => self.stat(received, &mut stats).await?,
                Ok(PacketType::PacketData) => self.data(received).await?,
                Ok(PacketType::PacketFin) if finished.load(Ordering::Acquire) => farewell = true,
                Ok(PacketType::PacketErr) => {
                    return Err(Error::Sender(String::from_utf8_lossy(&received.data).into_owned()));
                }
                _ => {
                    return Err(Error::Protocol(format!(
                        "unexpected packet of type {} from a sender",
                        received.r#type
                    )));
                }
            }
        }
        if !stats.is_empty() {
            self.tell(Some(stats)).await;
        }
        self.flush().await;
        if let Some(progress) = &self.progress {
            progress(self.wire, false);
        }
        Ok(farewell)
    }

    async fn stat(&mut self, received: Packet, stats: &mut Vec<Told>) -> Result<()> {
        if self.complete {
            return Err(Error::Protocol("more entries after the last".to_owned()));
        }
        let Some(stat) = received.stat else {
            self.complete = true;
            if !stats.is_empty() {
                self.tell(Some(std::mem::take(stats))).await;
            }
            self.tell(None).await;
            return Ok(());
        };
        self.order.check(&stat)?;
        let id = self.entries;
        self.entries = id.checked_add(1).ok_or_else(|| Error::Protocol("too many entries".to_owned()))?;
        self.shares.add(&stat);
        stats.push(Told { id, stat });
        Ok(())
    }

    async fn data(&mut self, received: Packet) -> Result<()> {
        let (id, bytes) = (received.id, received.data);
        let weight = u32::try_from(bytes.len().clamp(EMPTY, BUDGET)).unwrap_or(u32::MAX);
        let held = match self.budget.clone().try_acquire_many_owned(weight) {
            Ok(held) => held,
            Err(_) => {
                // What is collected here holds a part of the budget: out with it before waiting for more.
                self.flush().await;
                match self.budget.clone().acquire_many_owned(weight).await {
                    Ok(held) => held,
                    Err(_) => return Err(Error::Canceled),
                }
            }
        };
        self.content += bytes.len() as u64;
        self.writers[self.shares.of(id)].1.push(Data { id, bytes, _held: held });
        Ok(())
    }

    async fn flush(&mut self) {
        for (writer, collected) in &mut self.writers {
            if !collected.is_empty() && writer.send(std::mem::take(collected)).await.is_err() {
                ended().await;
            }
        }
    }

    async fn tell(&self, told: Option<Vec<Told>>) {
        if self.told.send(told).await.is_err() {
            ended().await;
        }
    }
}

/// A thread that no longer listens has an error, which [`finish`] is about to find.
async fn ended() {
    std::future::pending::<()>().await;
}

async fn forward(mut requests: Requests, outgoing: &mpsc::Sender<Packet>) -> Result<()> {
    while let Some(id) = requests.recv().await {
        say(outgoing, Packet { id, ..packet(PacketType::PacketReq) }).await?;
    }
    Ok(())
}

/// A stream that takes nothing more has an end that says why, which [`Pump::run`] is about to read.
async fn say(outgoing: &mpsc::Sender<Packet>, packet: Packet) -> Result<()> {
    if outgoing.send(packet).await.is_ok() {
        return Ok(());
    }
    tokio::time::sleep(GOODBYE).await;
    Err(Error::Transport("the sender stopped listening".to_owned()))
}

/// Waits for the differ and all files, does what must be last, and tells the sender. Errors of threads surface here.
async fn finish(
    root: &Arc<Root>,
    threads: &mut JoinSet<Result<Ended>>,
    mut done: Done,
    outgoing: &mpsc::Sender<Packet>,
    finished: &AtomicBool,
) -> Result<(Vec<Change>, u64)> {
    let mut plan: Option<Plan> = None;
    let mut changes = Vec::new();
    while plan.as_ref().is_none_or(|plan| (changes.len() as u64) < plan.requested) {
        tokio::select! {
            Some(whole) = done.recv() => changes.extend(whole),
            Some(ended) = threads.join_next() => match ended.map_err(|e| Error::Transport(e.to_string()))?? {
                Ended::Differ(made) => plan = Some(made),
                Ended::Writer => {}
            },
            else => return Err(Error::Canceled),
        }
    }
    let Some(mut plan) = plan else { return Err(Error::Canceled) };
    let files = plan.requested;
    // Deletions first: what was written may lie where something else was.
    let mut all = std::mem::take(&mut plan.changes);
    all.append(&mut changes);
    let root = root.clone();
    let last = spawn_blocking(move || plan.finish(&root)).await;
    last.map_err(|e| Error::Transport(e.to_string()))??;
    finished.store(true, Ordering::Release);
    say(outgoing, packet(PacketType::PacketFin)).await?;
    Ok((all, files))
}
