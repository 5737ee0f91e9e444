//! Writing a blob.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use kiln_oci::{Algorithm, Digest, Hasher};

use super::{BLOBS, BlobInfo, BlobRecord, Content};
use crate::{Error, Json, LeaseId, Resource, Store};

/// A blob that is being written. The digest is computed on the way, unless the writer does that. Dropped without [`Ingest::commit`], a resumable
/// ingest stays for a later [`Content::resume`] and any other is removed.
#[derive(Debug)]
pub struct Ingest {
    content: Content,
    name: String,
    path: PathBuf,
    file: File,
    /// `None`: the writer tells the digest.
    hasher: Option<Hasher>,
    offset: u64,
    resumable: bool,
    finished: bool,
}

impl Ingest {
    pub(super) fn open(content: &Content, name: String, resumable: bool) -> Result<Self, Error> {
        let path = content.ingest_path(&name);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(!resumable)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let mut hasher = Hasher::sha256();
        let offset =
            if resumable { hash(&mut file, &mut hasher).map_err(Error::io("read", &path))? } else { 0 };
        let (content, hasher) = (content.clone(), Some(hasher));
        Ok(Self { content, name, path, file, hasher, offset, resumable, finished: false })
    }

    /// The digest is not computed here: the writer does so anyway, and [`Ingest::commit`] believes it.
    pub(super) fn told(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// How many bytes have been written, by this writer and those before it.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Throws away what has been written, to begin anew.
    ///
    /// # Errors
    /// What the system says.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.file.set_len(0).map_err(Error::io("truncate", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(Error::io("seek in", &self.path))?;
        self.hasher = self.hasher.take().map(|_| Hasher::sha256());
        self.offset = 0;
        Ok(())
    }

    /// Opens the bytes written so far for reading, also while writing goes on: what has not been written yet reads as
    /// the end of the file.
    ///
    /// # Errors
    /// What the system says.
    pub fn reader(&self) -> Result<File, Error> {
        File::open(&self.path).map_err(Error::io("open", &self.path))
    }

    /// Ends writing: checks digest and size where they are given, makes the bytes a blob of the store, held by `lease`.
    /// When the store has this blob already, that one is held and these bytes are dropped.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] or [`Error::SizeMismatch`]: the bytes are wrong and are gone. [`Error::NoLease`].
    pub fn commit(
        mut self,
        store: &Store,
        lease: &LeaseId,
        digest: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<BlobInfo, Error> {
        let actual = self.finish_digest(digest)?;
        self.finished = true;
        let checked = check(&actual, self.offset, digest, size);
        let placed = checked.and_then(|()| self.place(store, lease, &actual));
        if !matches!(placed, Ok(true)) {
            remove(&self.path);
        }
        placed.map(|_| BlobInfo { digest: actual, size: self.offset })
    }

    fn finish_digest(&mut self, expected: Option<&Digest>) -> Result<Digest, Error> {
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        match (self.hasher.take(), expected) {
            (Some(hasher), _) if algorithm == Algorithm::Sha256 => return Ok(hasher.finish()),
            (None, Some(told)) => return Ok(told.clone()),
            // The rare algorithms are computed at the end, over the file.
            _ => {}
        }
        let mut hasher = Hasher::new(algorithm);
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| hash(&mut self.file, &mut hasher))
            .map_err(Error::io("read", &self.path))?;
        Ok(hasher.finish())
    }

    /// Moves the file to its place and writes its record; false when the blob was there already.
    fn place(&self, store: &Store, lease: &LeaseId, digest: &Digest) -> Result<bool, Error> {
        let target = self.content.path(digest);
        let resource = Resource::Blob(digest.clone());
        let _placed = self.content.place();
        if self.content.stat(digest)?.is_some() && store.change(|tx| tx.hold(lease, &resource)).is_ok() {
            return Ok(false);
        }
        if digest.algorithm() != Algorithm::Sha256
            && let Some(folder) = target.parent()
        {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        std::fs::rename(&self.path, &target).map_err(Error::io("place", &target))?;
        let recorded = store.change(|tx| {
            tx.put(&BLOBS, digest, &Json(BlobRecord { size: self.offset }));
            tx.add_uncovered(&resource);
            tx.hold(lease, &resource)
        });
        if recorded.is_err() {
            remove(&target);
        }
        recorded.map(|()| true)
    }
}

fn check(actual: &Digest, length: u64, digest: Option<&Digest>, size: Option<u64>) -> Result<(), Error> {
    match (digest, size) {
        (Some(expected), _) if expected != actual => {
            Err(Error::DigestMismatch { expected: expected.clone(), actual: actual.clone() })
        }
        (_, Some(expected)) if expected != length => {
            Err(Error::SizeMismatch { digest: actual.clone(), expected, actual: length })
        }
        _ => Ok(()),
    }
}

/// Reads `file` to its end into `hasher`; returns how many bytes came.
fn hash(file: &mut File, hasher: &mut Hasher) -> std::io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn remove(path: &std::path::Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove an ingest; the next start will");
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..n]);
        }
        self.offset += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.finished && !self.resumable {
            remove(&self.path);
        }
        if self.resumable {
            self.content.writer_gone(&self.name);
        }
    }
}
