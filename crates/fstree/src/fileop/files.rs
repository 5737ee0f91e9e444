//! Copying regular files, by several threads when there are many.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{Scope, ScopedJoinHandle};

use super::copy::Changes;
use super::paths::shown;
use super::{Linked, Transfer};
use crate::cores::cores;
use crate::dir::{Dir, file};
use crate::error::{Context as _, Error, Result};
use crate::meta::Metadata;

/// A folder of the destination.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) dir: Dir,
    /// Relative to the root of the destination.
    pub(super) path: PathBuf,
    /// Owner and group that a new file gets here without being given any.
    pub(super) owner: (u32, u32),
}

/// One regular file to copy.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) src: Arc<Dir>,
    pub(super) name: OsString,
    pub(super) meta: Metadata,
    pub(super) target: Arc<Target>,
    pub(super) target_name: OsString,
}

/// What all jobs of a copy share.
#[derive(Debug)]
pub(super) struct Files<'a> {
    changes: &'a Changes,
    /// Whether what is in the way is removed, also if it is a folder.
    replace: bool,
    linked: Option<&'a Linked>,
    /// A link was refused since the trees are on different mounts: no use in trying again.
    apart: AtomicBool,
    failed: AtomicBool,
}

impl<'a> Files<'a> {
    pub(super) fn new(changes: &'a Changes, replace: bool, transfer: Transfer<'a>) -> Self {
        let linked = match transfer {
            Transfer::Copy => None,
            Transfer::HardLink(linked) => Some(linked),
        };
        Self { changes, replace, linked, apart: AtomicBool::new(false), failed: AtomicBool::new(false) }
    }

    pub(super) fn copy(&self, job: &Job) -> Result<()> {
        let done = self.try_copy(job);
        if done.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        done
    }

    fn try_copy(&self, job: &Job) -> Result<()> {
        let at = || shown(&job.target.path.join(&job.target_name));
        if self.link(job).at("link", at())? {
            return Ok(());
        }
        let mut from = job.src.open_file(&job.name).at("open", at())?;
        let (uid, gid, mode) = self.changes.of(&job.meta);
        let mut to = self.make_way(job, |dir, name| dir.create_new(name, mode)).at("create", at())?;
        if job.meta.size > 0 {
            copy_bytes(&mut from, &mut to, job.meta.size).at("copy", at())?;
        }
        copy_xattrs(&from, &to);
        let given = (uid, gid) != job.target.owner;
        if given {
            file::set_owner(&to, uid, gid).at("chown", at())?;
        }
        if mode & 0o7000 != 0 {
            // Writes and changes of owner clear these.
            file::set_mode(&to, mode).at("chmod", at())?;
        }
        file::set_times(&to, self.changes.times(&job.meta)).at("utimes", at())
    }

    /// Creates something under the job's name; what is in the way is removed, unless it is a folder.
    fn make_way<T>(&self, job: &Job, make: impl Fn(&Dir, &OsStr) -> io::Result<T>) -> io::Result<T> {
        make_way(&job.target.dir, &job.target_name, self.replace, make)
    }

    /// Gives the source a second name, if that is allowed and comes to the same.
    fn link(&self, job: &Job) -> io::Result<bool> {
        let Some(linked) = self.linked else { return Ok(false) };
        let meta = &job.meta;
        let times = self.changes.times(meta);
        if self.apart.load(Ordering::Relaxed)
            || self.changes.of(meta) != (meta.uid, meta.gid, meta.mode)
            || times.mtime != Some(meta.mtime)
            || !linked.0.lock().unwrap_or_else(PoisonError::into_inner).insert(meta.inode)
        {
            return Ok(false);
        }
        match self.make_way(job, |dir, name| job.src.hard_link(&job.name, dir, name)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                self.apart.store(true, Ordering::Relaxed);
                Ok(false)
            }
            // The file has as many names as it can, or the system forbids another.
            Err(e) if matches!(e.kind(), io::ErrorKind::TooManyLinks | io::ErrorKind::PermissionDenied) => {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}

/// Runs `make` for a name; if it is taken, removes what is there and tries again.
pub(super) fn make_way<T>(
    dir: &Dir,
    name: &OsStr,
    replace: bool,
    make: impl Fn(&Dir, &OsStr) -> io::Result<T>,
) -> io::Result<T> {
    match make(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if replace {
                dir.remove_all(name)?;
            } else if dir.stat(name)?.is_dir() {
                return Err(io::Error::other("cannot replace a directory with a file"));
            } else {
                dir.unlink(name)?;
            }
            make(dir, name)
        }
        made => made,
    }
}

/// Moves the bytes inside the kernel, and through our hands where it cannot.
fn copy_bytes(from: &mut File, to: &mut File, size: u64) -> io::Result<()> {
    let mut done = 0;
    while done < size {
        match kernel_copy(from, to, size - done)? {
            Some(0) => return Ok(()),
            Some(len) => done += len,
            None => {
                let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(1, 128 * 1024)];
                loop {
                    match from.read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(len) => to.write_all(&buffer[..len])?,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
            }
        }
    }
    Ok(())
}

/// `None`: not between these two.
#[cfg(target_os = "linux")]
fn kernel_copy(from: &File, to: &File, len: u64) -> io::Result<Option<u64>> {
    use rustix::io::Errno;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
    match rustix::fs::copy_file_range(from, None, to, None, len) {
        Ok(len) => Ok(Some(len as u64)),
        Err(Errno::NOSYS | Errno::XDEV | Errno::PERM | Errno::IO | Errno::OPNOTSUPP | Errno::INVAL) => {
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn kernel_copy(_from: &File, _to: &File, _len: u64) -> io::Result<Option<u64>> {
    Ok(None)
}

/// What the destination cannot keep is lost, as in the reference.
fn copy_xattrs(from: &File, to: &File) {
    for (key, value) in file::xattrs(from).unwrap_or_default() {
        file::set_xattr(to, &key, &value).unwrap_or_default();
    }
}

/// Threads that copy, started when there is enough to do.
pub(super) struct Pool<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    files: &'scope Files<'scope>,
    batch: Vec<Job>,
    /// Bytes of the files in it.
    bytes: u64,
    queue: Option<mpsc::SyncSender<Vec<Job>>>,
    workers: Vec<ScopedJoinHandle<'scope, Result<()>>>,
}

/// Files that are worth a thread; fewer are copied without one.
const BATCH: usize = 32;
/// Files, and bytes in them, that are handed to a thread at once though more of their folder may come.
const LARGE: usize = 512;
const LARGE_BYTES: u64 = 8 << 20;
/// Batches that wait. Each holds its folders open.
const QUEUE: usize = 4;

impl<'scope, 'env> Pool<'scope, 'env> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, files: &'scope Files<'scope>) -> Self {
        Self { scope, files, batch: Vec::new(), bytes: 0, queue: None, workers: Vec::new() }
    }

    /// A batch ends with a folder where it can: threads that make files in one folder wait for each other.
    pub(super) fn add(&mut self, job: Job) -> Result<()> {
        let leaves = self.batch.last().is_some_and(|last| !Arc::ptr_eq(&last.target, &job.target));
        if leaves && self.batch.len() >= BATCH || self.batch.len() >= LARGE || self.bytes >= LARGE_BYTES {
            let batch = std::mem::take(&mut self.batch);
            self.bytes = 0;
            self.hand_over(batch)?;
        }
        self.bytes += job.meta.size;
        self.batch.push(job);
        Ok(())
    }

    fn hand_over(&mut self, batch: Vec<Job>) -> Result<()> {
        if self.files.failed.load(Ordering::Relaxed) {
            return Err(Error::Canceled);
        }
        let queue = match &self.queue {
            Some(queue) => queue,
            None => self.start(),
        };
        // No one takes it if all have failed, which `finish` tells.
        queue.send(batch).map_err(|_| Error::Canceled)
    }

    /// Shares out what is left, if that is worth it; the rest is this thread's.
    fn share(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.bytes);
        while self.batch.len() > BATCH || self.batch.len() > 1 && bytes >= LARGE_BYTES {
            let part = self.batch.split_off(self.batch.len() - self.batch.len().div_ceil(2).min(BATCH));
            self.hand_over(part)?;
        }
        Ok(())
    }

    fn start(&mut self) -> &mpsc::SyncSender<Vec<Job>> {
        let (queue, batches) = mpsc::sync_channel::<Vec<Job>>(QUEUE);
        let batches = Arc::new(Mutex::new(batches));
        let count = cores().clamp(2, 8);
        for _ in 0..count {
            let (files, batches) = (self.files, batches.clone());
            self.workers.push(self.scope.spawn(move || {
                loop {
                    let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(batch) = batch else { return Ok(()) };
                    batch.iter().try_for_each(|job| files.copy(job))?;
                }
            }));
        }
        self.queue.insert(queue)
    }

    /// Copies what is left and waits for the threads. Their first error is the one that counts.
    pub(super) fn finish(mut self, walked: Result<()>) -> Result<()> {
        let walked = walked.and_then(|()| self.share());
        drop(self.queue.take());
        let mut result = match walked {
            Ok(()) => self.batch.iter().try_for_each(|job| self.files.copy(job)),
            Err(e) => Err(e),
        };
        for worker in self.workers {
            let ended =
                worker.join().unwrap_or_else(|_| Err(Error::Refused("a copying thread panicked".to_owned())));
            if ended.is_err() && (result.is_ok() || matches!(result, Err(Error::Canceled))) {
                result = ended;
            }
        }
        result
    }
}
