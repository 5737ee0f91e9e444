//! What the receiver does with DATA: small files are kept until they are whole, large ones written as they come.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use kiln_proto::fsutil::Stat;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::differ::{Requested, replace};
use super::folders::{Folder, Folders};
use super::{Change, ChangeKind};
use crate::Root;
use crate::contenthash::FileHash;
use crate::dir::{SetTimes, file};
use crate::error::{Context as _, Error, Result};
use crate::meta::{Time, go_mode};
use crate::names::{os_name, os_path, split};
use crate::root::temporary_name;

/// A file that has been asked for.
#[derive(Debug)]
pub(crate) struct Pending {
    /// As the sender told it.
    pub(crate) told: Stat,
    /// As it is written.
    pub(crate) stat: Stat,
    pub(crate) change: ChangeKind,
    /// Something of that name is there.
    pub(crate) replaces: bool,
    /// Has seen the header.
    pub(crate) hash: Option<FileHash>,
}

/// Bytes of a file, and the right to hold them in memory. No bytes: the file is whole.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) id: u32,
    pub(crate) bytes: Bytes,
    pub(crate) _held: OwnedSemaphorePermit,
}

/// A file is opened when more than this has come of it, in bytes.
const SMALL: usize = 64 * 1024;
/// Large files that are open at once in one writer. Senders work on a few.
const OPEN_MAX: usize = 256;

/// One writing thread. All data of a file comes to the same one, in order.
pub(crate) struct Writer {
    folders: Folders,
    requested: Arc<Requested>,
    filling: HashMap<u32, Filling>,
    /// Bytes in memory of files that are not whole, and how many there may be.
    buffered: usize,
    buffer: usize,
    open: usize,
}

struct Filling {
    pending: Pending,
    chunks: Vec<Data>,
    len: usize,
    file: Option<Opened>,
}

struct Opened {
    file: File,
    folder: Arc<Folder>,
    name: OsString,
    /// The name it has until it is whole, if not the final one.
    aside: Option<OsString>,
}

impl Writer {
    pub(crate) fn new(root: &Root, requested: Arc<Requested>, buffer: usize) -> Result<Self> {
        let folders = Folders::new(root)?;
        Ok(Self { folders, requested, filling: HashMap::new(), buffered: 0, buffer, open: 0 })
    }

    /// Writes what comes until the channel ends; tells what became whole.
    pub(crate) fn run(
        mut self,
        mut data: mpsc::Receiver<Vec<Data>>,
        done: &mpsc::UnboundedSender<Vec<Change>>,
    ) -> Result<()> {
        while let Some(batch) = data.blocking_recv() {
            let mut whole = Vec::with_capacity(batch.len() / 2 + 1);
            for data in batch {
                if let Some(change) = self.take(data)? {
                    whole.push(change);
                }
            }
            if !whole.is_empty() && done.send(whole).is_err() {
                return Err(Error::Canceled);
            }
        }
        Ok(())
    }

    fn take(&mut self, data: Data) -> Result<Option<Change>> {
        let id = data.id;
        if !self.filling.contains_key(&id) {
            let pending = self.requested.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let pending = pending
                .ok_or_else(|| Error::Protocol(format!("data of file {id}, which was not asked for")))?;
            self.filling.insert(id, Filling { pending, chunks: Vec::new(), len: 0, file: None });
        }
        if data.bytes.is_empty() {
            let Some(filling) = self.filling.remove(&id) else { return Ok(None) };
            return self.complete(filling).map(Some);
        }
        let Some(filling) = self.filling.get_mut(&id) else { return Ok(None) };
        if let Some(hash) = &mut filling.pending.hash {
            hash.update(&data.bytes);
        }
        if let Some(opened) = &mut filling.file {
            let path = &filling.pending.stat.path;
            opened.file.write_all(&data.bytes).at("write", os_path(path).unwrap_or_default())?;
            return Ok(None);
        }
        self.buffered += data.bytes.len();
        filling.len += data.bytes.len();
        filling.chunks.push(data);
        if filling.len > SMALL || self.buffered > self.buffer {
            if self.open == OPEN_MAX {
                return Err(Error::Protocol(format!("more than {OPEN_MAX} unfinished files")));
            }
            self.open += 1;
            open(&mut self.folders, filling)?;
            self.buffered -= filling.len;
        }
        Ok(None)
    }

    fn complete(&mut self, mut filling: Filling) -> Result<Change> {
        if filling.file.is_some() {
            self.open -= 1;
        } else {
            open(&mut self.folders, &mut filling)?;
            self.buffered -= filling.len;
        }
        let Filling { pending, file, .. } = filling;
        if let Some(opened) = file {
            opened.complete(&pending.stat).at("write", os_path(&pending.stat.path).unwrap_or_default())?;
        }
        Ok(Change {
            kind: pending.change,
            path: pending.told.path.clone(),
            stat: Some(pending.told),
            digest: pending.hash.map(FileHash::finish),
        })
    }
}

/// Creates the file and writes what has come of it.
fn open(folders: &mut Folders, filling: &mut Filling) -> Result<()> {
    let stat = &filling.pending.stat;
    let (parent, name) = split(&stat.path);
    let at = || os_path(&stat.path).unwrap_or_default();
    let folder = folders.get(parent)?;
    let name = os_name(name).at("create", at())?;
    let mode = go_mode::unix(stat.mode);
    let create_aside = || {
        let aside = temporary_name();
        folder.dir.create_new(&aside, mode).map(|file| (file, Some(aside)))
    };
    let created = if filling.pending.replaces {
        create_aside()
    } else {
        match folder.dir.create_new(&name, mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => create_aside(),
            created => created.map(|file| (file, None)),
        }
    };
    let (mut file, aside) = created.at("create", at())?;
    for chunk in filling.chunks.drain(..) {
        file.write_all(&chunk.bytes).at("write", at())?;
    }
    filling.file = Some(Opened { file, folder, name, aside });
    Ok(())
}

impl Opened {
    fn complete(self, stat: &Stat) -> io::Result<()> {
        for (key, value) in &stat.xattrs {
            // File systems differ in what they keep; the reference does not insist either.
            file::set_xattr(&self.file, key, value).unwrap_or_default();
        }
        let mode = go_mode::unix(stat.mode);
        let given = self.folder.owner != (stat.uid, stat.gid);
        if given {
            file::set_owner(&self.file, stat.uid, stat.gid)?;
        }
        if mode & 0o7000 != 0 {
            // Writes and changes of owner clear these.
            file::set_mode(&self.file, mode)?;
        }
        file::set_times(&self.file, SetTimes::both(Time::from_nanos(stat.mod_time)))?;
        match &self.aside {
            Some(aside) => replace(&self.folder.dir, aside, &self.name),
            None => Ok(()),
        }
    }
}
