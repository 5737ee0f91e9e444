//! A tree that is one file from outside.

use std::{
    fs::File,
    io::{self, Write},
};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures::{Stream, StreamExt as _};
use kiln_fstree::{Root, SetTimes, Time};
use kiln_llb::source::FileMeta;
use kiln_oci::{Algorithm, Digest, Hasher};
use kiln_worker::{ImmutableRef, MutableRef, RefOptions, Worker};
use tokio::sync::mpsc;

use crate::Error;

/// Pieces of the file that wait to be written.
const QUEUE: usize = 32;
/// The mode of a file for which none is asked.
const MODE: u32 = 0o600;

/// The one file of a new tree.
pub(crate) struct NewFile {
    /// What errors call it: a URL or a reference.
    pub(crate) origin: String,
    /// Its name; one component.
    pub(crate) name: String,
    pub(crate) meta: FileMeta,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    /// The bytes that come are those of a gzip stream of the file.
    pub(crate) gzip: bool,
    pub(crate) algorithm: Algorithm,
}

impl NewFile {
    /// Writes the bytes of `stream` into a tree of their own; returns their digest too.
    pub(crate) async fn receive<S>(
        self,
        worker: &Worker,
        description: String,
        stream: S,
    ) -> Result<(ImmutableRef, Digest), Error>
    where
        S: Stream<Item = Result<Bytes, Error>>,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let worker = worker.clone();
        let writer = tokio::task::spawn_blocking(move || {
            let mutable = worker.create(None, RefOptions::described(description))?;
            self.write(mutable, receiver)
        });
        let mut stream = std::pin::pin!(stream);
        while let Some(piece) = stream.next().await {
            let failed = piece.is_err();
            // The writer has an error of its own to tell when it takes no more.
            if sender.send(piece).await.is_err() || failed {
                break;
            }
        }
        drop(sender);
        writer.await?
    }

    fn write(
        self,
        mut mutable: MutableRef,
        mut pieces: mpsc::Receiver<Result<Bytes, Error>>,
    ) -> Result<(ImmutableRef, Digest), Error> {
        let root = mutable.open()?;
        let failed = |e: io::Error| Error::Io { what: format!("writing {}", self.origin), source: e };
        let file = root.dir().create_new(self.name.as_ref(), MODE).map_err(failed)?;
        let mut sink = Sink::new(Tee { file, hasher: Hasher::new(self.algorithm) }, self.gzip);
        while let Some(piece) = pieces.blocking_recv() {
            sink.write_all(&piece?).map_err(failed)?;
        }
        let tee = sink.finish().map_err(failed)?;
        drop(tee.file);
        self.dress(&root).map_err(failed)?;
        drop(root);
        Ok((mutable.commit()?, tee.hasher.finish()))
    }

    fn dress(&self, root: &Root) -> io::Result<()> {
        let (dir, name, meta) = (root.dir(), self.name.as_ref(), &self.meta);
        if (meta.uid, meta.gid) != (0, 0) {
            dir.chown(name, meta.uid, meta.gid)?;
        }
        if let Some(mode) = meta.mode {
            dir.chmod(name, mode & 0o7777)?;
        }
        dir.set_times(name, SetTimes::both(Time { secs: self.mtime, nanos: 0 }))
    }
}

/// The file and its digest on the way.
struct Tee {
    file: File,
    hasher: Hasher,
}

impl Write for Tee {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write(data)?;
        self.hasher.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

enum Sink {
    Plain(Box<Tee>),
    Gzip(Box<MultiGzDecoder<Tee>>),
}

impl Sink {
    fn new(tee: Tee, gzip: bool) -> Self {
        if gzip { Self::Gzip(Box::new(MultiGzDecoder::new(tee))) } else { Self::Plain(Box::new(tee)) }
    }

    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tee) => tee.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
        }
    }

    fn finish(self) -> io::Result<Tee> {
        match self {
            Self::Plain(tee) => Ok(*tee),
            Self::Gzip(decoder) => decoder.finish(),
        }
    }
}
