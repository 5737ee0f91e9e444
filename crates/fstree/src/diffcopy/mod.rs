//! The transfer of a tree over a stream of packets, both ends, as BuildKit's clients and daemons speak it.
//!
//! ```text
//! sender                                   receiver
//!   STAT a, STAT a/b, STAT c, …, STAT {} ──▶   compares with its tree; deletes, makes folders and links
//!                                        ◀──   REQ 1, REQ 2       by index in the sequence of STATs
//!   DATA 1 bytes, DATA 2 bytes, DATA 1 ∅ ──▶   writes; an empty DATA ends a file
//!                                        ◀──   FIN
//!   FIN                                  ──▶
//! ```
//!
//! STATs come folder before content, names in byte order. Hard links name the first of their names; symbolic links
//! their target. ERR with a message may come from either end at any time and ends the transfer.

mod burst;
mod differ;
mod folders;
mod order;
mod receive;
mod send;
mod shares;
mod write;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use kiln_oci::Digest;
use kiln_proto::fsutil::packet::PacketType;
use kiln_proto::fsutil::{Packet, Stat};
use tokio::sync::mpsc;

use crate::filter::Filter;
use crate::{Error, Result, Root};

/// One tree of those that a sender offers.
#[derive(Debug)]
pub struct Tree {
    /// The folder in which the receiver sees it: one component, with the metadata of that folder. `None`: at the top.
    pub at: Option<Stat>,
    /// The files.
    pub root: Root,
    /// Which of them.
    pub filter: Filter,
    /// Files that are on no disk, merged among the others. Where both have a path, this one wins.
    pub extra: Vec<ExtraFile>,
}

/// A regular file in memory.
#[derive(Debug, Clone)]
pub struct ExtraFile {
    /// Path (relative, clean), mode and time. The size is taken from the data.
    pub stat: Stat,
    /// Content.
    pub data: Bytes,
}

/// Told from time to time how many bytes have gone over the wire so far, and whether that was all.
pub type Progress = Arc<dyn Fn(u64, bool) + Send + Sync>;

/// Serves one transfer of `trees`, which must be sorted by their folder, as the sending end. Ends when the receiver has all it wants.
/// Errors are told to the receiver before they are returned.
///
/// `outgoing` bounds what is in flight: 128 packets of at most 64 kB are plenty.
///
/// # Errors
/// If a tree cannot be read, the receiver reports an error, or the stream breaks.
pub async fn send<S, E>(
    trees: Vec<Tree>,
    incoming: S,
    outgoing: mpsc::Sender<Packet>,
    progress: Option<Progress>,
) -> Result<Sent>
where
    S: Stream<Item = std::result::Result<Packet, E>> + Send + Unpin,
    E: Display,
{
    send::send(trees, incoming, outgoing, progress).await
}

/// What a sender sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Entries told.
    pub entries: u64,
    /// Files whose content was asked for.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// When an existing file counts as the one that the sender has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compare {
    /// Never: everything is transferred (`none`).
    Nothing,
    /// When size, time, mode, owner, device numbers and link target are equal (`metadata`).
    #[default]
    Metadata,
}

/// Sees the metadata of an entry before it is compared and written, and may change it. `false`: the entry is not
/// written (and what is there of that name is not deleted).
pub type ReceiveFilter = Arc<dyn Fn(&mut Stat) -> bool + Send + Sync>;

/// Whether an entry is wanted.
pub type Wanted = Arc<dyn Fn(&Stat) -> bool + Send + Sync>;

/// How to receive.
#[derive(Clone, Default)]
pub struct ReceiveOptions {
    /// Keep what the sender does not have. Otherwise it is deleted.
    pub merge: bool,
    /// When a file is not transferred again.
    pub compare: Compare,
    /// Changes metadata on the way in, for example owners. Content hashes are those before it.
    pub filter: Option<ReceiveFilter>,
    /// Receive metadata only, into the file [`METADATA_FILE`] at the root; those entries for which the function says
    /// `true` are transferred in full, with their folders.
    pub metadata_only: Option<Wanted>,
    /// Compute the [content hash](crate::contenthash) of each entry while it arrives.
    pub hash: bool,
    /// Told how much has come.
    pub progress: Option<Progress>,
    /// Called once, before the first change is made to the tree; never, if there is none. Its error ends the transfer.
    pub before_change: Option<BeforeChange>,
}

/// See [`ReceiveOptions::before_change`]. May block.
pub type BeforeChange = Arc<dyn Fn() -> std::io::Result<()> + Send + Sync>;

/// Where a metadata-only transfer leaves what it received: for each STAT its length (4 bytes, little endian) and its
/// protobuf encoding.
pub const METADATA_FILE: &str = ".fsutil-metadata";

/// Serves one transfer as the receiving end: makes `dest` equal to what the sender offers.
/// Errors are told to the sender before they are returned; `dest` is then in no particular state.
///
/// # Errors
/// If `dest` cannot be written, the sender reports an error or breaks the protocol, or the stream breaks.
pub async fn receive<S, E>(
    dest: Root,
    incoming: S,
    outgoing: mpsc::Sender<Packet>,
    options: ReceiveOptions,
) -> Result<Received>
where
    S: Stream<Item = std::result::Result<Packet, E>> + Send + Unpin,
    E: Display,
{
    receive::receive(dest, incoming, outgoing, options).await
}

/// What a receiver changed.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// In no particular order, except that a deletion comes before what replaced it.
    pub changes: Vec<Change>,
    /// Entries that the sender told.
    pub entries: u64,
    /// Files whose content was asked for.
    pub files: u64,
    /// Bytes of content received.
    pub bytes: u64,
}

/// One difference between the tree before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Where: relative, clean, `/`-separated; bytes as file names are.
    pub path: Bytes,
    /// The new metadata as the sender told it; `None` for a deletion.
    pub stat: Option<Stat>,
    /// Its content hash: of the header for a folder; `None` for deletions, hard links (which have that of the file
    /// they link to), and if none was asked for.
    pub digest: Option<Digest>,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Add,
    /// It was there and is different.
    Modify,
    /// It was there, and is not, nor anything below it.
    Delete,
}

/// A packet of one type and nothing else.
fn packet(kind: PacketType) -> Packet {
    Packet { r#type: kind.into(), ..Packet::default() }
}

/// Tells the other end why a transfer ends here, unless it said so itself or is gone.
async fn tell(outgoing: &mpsc::Sender<Packet>, error: &Error) {
    if matches!(error, Error::Sender(_) | Error::Receiver(_) | Error::Transport(_)) {
        return;
    }
    let message = Packet { data: error.to_string().into(), ..packet(PacketType::PacketErr) };
    // It may not be listening any more.
    let sent = tokio::time::timeout(Duration::from_secs(5), outgoing.send(message)).await;
    drop(sent);
}

#[cfg(all(test, unix))]
mod tests;
