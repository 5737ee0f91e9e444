//! Blobs by digest.
//!
//! ```text
//! content/blobs/<algorithm>/<hex>   whole, verified; exists for others once table `blobs` has its record
//! content/ingest/k<hash of key>     being written, kept for resuming (24 hours after its writer went)
//! content/ingest/t<generation>-<n>  being written, gone when its writer goes
//! content/ingest/d<generation>-<n>  being removed
//! table blobs                       digest → {"size":…}
//! ```

mod ingest;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_oci::Digest;
use serde::{Deserialize, Serialize};

use crate::{Db, Error, Json, Table};
pub use ingest::Ingest;

pub(crate) const BLOBS: Table<Digest, Json<BlobRecord>> = Table::new("blobs");

/// What a blob's record holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    pub(crate) size: u64,
}

/// A blob's name and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
}

/// A blob that is open for reading. It stays readable when the blob is removed from the store.
#[derive(Debug)]
pub struct Blob {
    file: File,
    size: u64,
}

impl Blob {
    /// How many bytes the blob has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The open file, positioned at its start.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads at `offset` into `buffer`; returns how many bytes came, 0 at the end.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        read_at(&self.file, buffer, offset)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// The content store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Content {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    db: Db,
    generation: u64,
    next: AtomicU64,
    /// Held while a file moves to or from `blobs/` and its record is written or checked.
    place: Mutex<()>,
    /// File names of ingests that have a writer.
    writing: Mutex<HashSet<String>>,
}

impl Content {
    pub(crate) fn open(dir: PathBuf, db: Db, generation: u64) -> Result<Self, Error> {
        for sub in ["blobs/sha256", "ingest"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        let shared = Shared {
            dir,
            db,
            generation,
            next: AtomicU64::new(0),
            place: Mutex::new(()),
            writing: Mutex::new(HashSet::new()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Name and size of a blob; `None` when it is not here.
    ///
    /// # Errors
    /// As for [`Db::get`].
    pub fn stat(&self, digest: &Digest) -> Result<Option<BlobInfo>, Error> {
        let record = self.shared.db.get(&BLOBS, digest)?;
        Ok(record.map(|Json(record)| BlobInfo { digest: digest.clone(), size: record.size }))
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`Error::NoBlob`] when it is not here.
    pub fn blob(&self, digest: &Digest) -> Result<Blob, Error> {
        let info = self.stat(digest)?.ok_or_else(|| Error::NoBlob(digest.clone()))?;
        let path = self.path(digest);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        Ok(Blob { file, size: info.size })
    }

    /// Reads a whole blob that must have at most `limit` bytes (a manifest, a config).
    ///
    /// # Errors
    /// [`Error::NoBlob`] when it is not here, [`Error::SizeMismatch`] when it is larger than `limit`.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let blob = self.blob(digest)?;
        if blob.size > limit {
            return Err(Error::SizeMismatch { digest: digest.clone(), expected: limit, actual: blob.size });
        }
        let path = self.path(digest);
        let mut bytes = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(0));
        std::io::Read::read_to_end(&mut blob.into_file(), &mut bytes).map_err(Error::io("read", &path))?;
        Ok(bytes)
    }

    /// At most `limit` blobs in digest order, from the one after `after` on.
    ///
    /// # Errors
    /// As for [`Db::get`].
    pub fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobInfo>, Error> {
        let page = self.shared.db.page(&BLOBS, &(), after, limit)?;
        Ok(page.into_iter().map(|(digest, Json(record))| BlobInfo { digest, size: record.size }).collect())
    }

    /// Begins to write a blob that is gone when the [`Ingest`] is dropped uncommitted.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be made.
    pub fn ingest(&self) -> Result<Ingest, Error> {
        Ingest::open(self, self.fresh('t'), false)
    }

    /// The same, for a writer that computes the digest itself and gives it to [`Ingest::commit`].
    ///
    /// # Errors
    /// As [`Content::ingest`].
    pub fn ingest_digested(&self) -> Result<Ingest, Error> {
        Ok(Ingest::open(self, self.fresh('t'), false)?.told())
    }

    /// Begins or resumes to write the blob known as `key` (any string). What was written before is kept: ask
    /// [`Ingest::offset`] where to go on.
    ///
    /// # Errors
    /// [`Error::IngestBusy`] while another writer has this key; [`Error::Io`] when the file cannot be made or read.
    pub fn resume(&self, key: &str) -> Result<Ingest, Error> {
        let name = format!("k{}", Digest::sha256(key.as_bytes()).hex());
        if !lock(&self.shared.writing).insert(name.clone()) {
            return Err(Error::IngestBusy(key.to_owned()));
        }
        Ingest::open(self, name.clone(), true).inspect_err(|_| self.writer_gone(&name))
    }

    /// Where a blob's bytes are. The file must not be changed.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.shared.dir.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn fresh(&self, kind: char) -> String {
        let n = self.shared.next.fetch_add(1, Ordering::Relaxed);
        format!("{kind}{}-{n}", self.shared.generation)
    }

    /// The folder of blobs that are being written.
    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.shared.dir.join("ingest")
    }

    fn ingest_path(&self, name: &str) -> PathBuf {
        self.shared.dir.join("ingest").join(name)
    }

    fn writer_gone(&self, name: &str) {
        lock(&self.shared.writing).remove(name);
    }

    /// Held while a blob's file and record change together.
    pub(crate) fn place(&self) -> MutexGuard<'_, ()> {
        lock(&self.shared.place)
    }

    /// Removes the data of a blob that has no record. Does nothing for one that was placed anew meanwhile, also if that
    /// record was deleted again: its own removal follows when this deletion is durable.
    pub(crate) fn remove_data(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.path(digest);
        let dead = self.ingest_path(&self.fresh('d'));
        {
            // Unlinking a large file takes long; renaming does not, and only that must exclude a new blob of this name.
            let _placed = self.place();
            if !self.shared.db.is_absent(&BLOBS, digest)? {
                return Ok(());
            }
            match std::fs::rename(&path, &dead) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(Error::io("move away", &path)(error)),
            }
        }
        std::fs::remove_file(&dead).map_err(Error::io("remove", &dead))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.shared.dir
    }

    pub(crate) fn has_writer(&self, name: &str) -> bool {
        lock(&self.shared.writing).contains(name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
