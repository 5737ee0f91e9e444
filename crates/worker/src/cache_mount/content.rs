//! A cache mount's content on its way: one blob, a packed tar of everything below the mount's folder.
//!
//! It is a stranger's, so it is unpacked by the rules for archives of strangers: nothing leads out of the folder, sizes are
//! limited, and nobody sees what has not turned out to be what its digest says.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use kiln_fstree::Root;
use kiln_layer::add::{UnpackOptions, unpack};
use kiln_oci::{Descriptor, Digest, Hasher};
use serde::{Deserialize, Serialize};

use crate::{BlobStream, Error};

/// Chunks that may wait to be unpacked.
const QUEUE: usize = 32;

/// The packed content of a cache mount, and what its folder itself is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountContent {
    /// The blob, with the media type of a layer.
    pub blob: Descriptor,
    /// The digest of its tar stream.
    pub diff_id: Digest,
    /// The length of its tar stream in bytes.
    pub size: u64,
    /// Owner of the folder.
    pub uid: u32,
    /// Group of the folder.
    pub gid: u32,
    /// The folder's twelve mode bits.
    pub mode: u32,
}

/// Unpacks the bytes that `stream` brings into the empty folder `root`. `moved` is told how many have come, from another
/// thread. After an error the folder holds anything.
///
/// # Errors
/// [`Error::Fetch`], [`Error::Layer`]; [`Error::Store`] for bytes that are not what `content` says.
pub async fn unpack_mount(
    root: Root,
    content: &MountContent,
    mut stream: BlobStream,
    moved: impl FnMut(u64) + Send + 'static,
) -> Result<(), Error> {
    let blob = &content.blob;
    let seen = Arc::new(Mutex::new(Seen { hasher: Hasher::new(blob.digest.algorithm()), bytes: 0 }));
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(QUEUE);
    let incoming =
        Incoming { receiver, current: Bytes::new(), seen: Arc::clone(&seen), limit: blob.size, moved };
    let (limit, of, dress) = (content.size, blob.digest.clone(), content.clone());
    let unpacking = tokio::task::spawn_blocking(move || {
        let options = UnpackOptions { owner: None, max_size: Some(limit), to_end: true };
        unpack(incoming, &root, "".as_ref(), &options).map_err(Error::layer(&of))?;
        let own = |source| kiln_fstree::Error::Io { op: "set owner and mode of", path: "/".into(), source };
        root.dir().chown_self(dress.uid, dress.gid).map_err(own)?;
        root.dir().chmod_self(dress.mode & 0o7777).map_err(own)?;
        Ok::<_, Error>(())
    });
    let mut failed = None;
    while let Some(bytes) = stream.next().await {
        match bytes {
            Ok(bytes) => {
                if sender.send(bytes).await.is_err() {
                    // Whoever unpacks has failed, and says why.
                    break;
                }
            }
            Err(source) => {
                failed = Some(Error::Fetch { digest: blob.digest.clone(), source });
                break;
            }
        }
    }
    drop(sender);
    let unpacked = unpacking.await?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    unpacked?;
    check(blob, &seen)
}

/// What has come.
struct Seen {
    hasher: Hasher,
    bytes: u64,
}

fn check(blob: &Descriptor, seen: &Mutex<Seen>) -> Result<(), Error> {
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.bytes != blob.size {
        let (digest, expected, actual) = (blob.digest.clone(), blob.size, seen.bytes);
        return Err(kiln_store::Error::SizeMismatch { digest, expected, actual }.into());
    }
    let actual = seen.hasher.clone().finish();
    if actual != blob.digest {
        return Err(kiln_store::Error::DigestMismatch { expected: blob.digest.clone(), actual }.into());
    }
    Ok(())
}

/// The bytes as they come, counted and digested.
struct Incoming<F> {
    receiver: tokio::sync::mpsc::Receiver<Bytes>,
    current: Bytes,
    seen: Arc<Mutex<Seen>>,
    limit: u64,
    moved: F,
}

impl<F: FnMut(u64)> Read for Incoming<F> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(next) = self.receiver.blocking_recv() else { return Ok(0) };
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.bytes += next.len() as u64;
            if seen.bytes > self.limit {
                return Err(io::Error::other(format!(
                    "more than the {} bytes that were announced",
                    self.limit
                )));
            }
            seen.hasher.update(&next);
            (self.moved)(seen.bytes);
            drop(seen);
            self.current = next;
        }
        let count = self.current.len().min(target.len());
        self.current.copy_to_slice(&mut target[..count]);
        Ok(count)
    }
}
