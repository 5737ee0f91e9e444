//! What the receiver does with STATs: compares them with its tree, removes, makes folders and links, asks for files.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kiln_proto::fsutil::Stat;
use prost::Message as _;
use tokio::sync::mpsc;

use super::folders::Folders;
use super::write::Pending;
use super::{Change, ChangeKind, Compare, METADATA_FILE, ReceiveOptions};
use crate::Root;
use crate::contenthash::FileHash;
use crate::dir::{Dir, SetTimes};
use crate::error::{Context as _, Error, Result};
use crate::meta::{Kind, Metadata, Time, go_mode};
use crate::names::{compare, is_within, os_name, os_path, split};
use crate::root::temporary_name;
use crate::walk::{Found, Stats, Walk};

/// A STAT and its place in the sequence.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: u32,
    pub(crate) stat: Stat,
}

/// Files that were asked for, by id.
pub(crate) type Requested = Mutex<HashMap<u32, Pending>>;

/// What is left to do when all files have come.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    pub(crate) requested: u64,
    links: Vec<(Bytes, Bytes)>,
    times: Vec<(Bytes, Time)>,
    metadata: Option<Vec<u8>>,
}

pub(crate) struct Differ {
    folders: Folders,
    existing: Option<Existing>,
    options: ReceiveOptions,
    requested: Arc<Requested>,
    requests: mpsc::UnboundedSender<u32>,
    plan: Plan,
    /// Folders that the current entry is in.
    parents: Vec<Touched>,
    /// In a metadata-only transfer: folders that have not been made, as nothing in them was wanted so far.
    unmade: Vec<Told>,
}

/// The tree as it was, one entry ahead.
struct Existing {
    walk: Walk,
    stats: Stats,
    next: Option<Found>,
}

struct Touched {
    path: Bytes,
    mtime: Time,
    touched: bool,
}

impl Existing {
    fn advance(&mut self) -> Result<()> {
        self.next = self.walk.next().transpose()?;
        Ok(())
    }
}

impl Differ {
    pub(crate) fn new(
        root: &Root,
        options: ReceiveOptions,
        requested: Arc<Requested>,
        requests: mpsc::UnboundedSender<u32>,
    ) -> Result<Self> {
        let existing = if options.merge {
            None
        } else {
            let mut existing = Existing { walk: Walk::new(root)?, stats: Stats::default(), next: None };
            existing.advance()?;
            Some(existing)
        };
        let metadata = options.metadata_only.is_some().then(Vec::new);
        Ok(Self {
            folders: Folders::new(root)?,
            existing,
            options,
            requested,
            requests,
            plan: Plan { metadata, ..Plan::default() },
            parents: Vec::new(),
            unmade: Vec::new(),
        })
    }

    /// Works through all STATs. `None` in the channel is the terminator.
    pub(crate) fn run(mut self, mut told: mpsc::Receiver<Option<Vec<Told>>>) -> Result<Plan> {
        if self.plan.metadata.is_some() {
            self.about_to_change()?;
        }
        while let Some(batch) = told.blocking_recv() {
            let Some(batch) = batch else {
                while self.existing.as_ref().is_some_and(|e| e.next.is_some()) {
                    self.delete_next()?;
                }
                self.leave(b"");
                return Ok(self.plan);
            };
            for entry in batch {
                self.take(entry)?;
            }
        }
        Err(Error::Canceled)
    }

    /// In a metadata-only transfer an entry is written down, and goes on only if it is an exception.
    fn take(&mut self, told: Told) -> Result<()> {
        let Some(wanted) = &self.options.metadata_only else { return self.compare(told) };
        if told.stat.path == METADATA_FILE.as_bytes() {
            return Ok(());
        }
        let wanted = wanted(&told.stat);
        if let Some(list) = &mut self.plan.metadata {
            let len = u32::try_from(told.stat.encoded_len()).unwrap_or(u32::MAX);
            list.extend_from_slice(&len.to_le_bytes());
            list.extend_from_slice(&told.stat.encode_to_vec());
        }
        self.unmade.retain(|dir| is_within(&told.stat.path, &dir.stat.path));
        if wanted {
            for dir in std::mem::take(&mut self.unmade) {
                self.compare(dir)?;
            }
            return self.compare(told);
        }
        if told.stat.mode & go_mode::DIR != 0 {
            self.unmade.push(told);
        }
        Ok(())
    }

    fn compare(&mut self, told: Told) -> Result<()> {
        self.leave(&told.stat.path);
        while let Some(next) = self.existing.as_ref().and_then(|e| e.next.as_ref()) {
            if !compare(&next.path, &told.stat.path).is_lt() {
                break;
            }
            self.delete_next()?;
        }
        let is_same_path = |found: &Found| found.path == told.stat.path;
        let found = match &mut self.existing {
            Some(existing) if existing.next.as_ref().is_some_and(is_same_path) => existing.next.take(),
            _ => None,
        };
        let Some(found) = found else { return self.write(told, ChangeKind::Add, None) };
        let is_dir = told.stat.mode & go_mode::DIR != 0;
        let same = self.is_same(&found, &told.stat)?;
        if let Some(existing) = &mut self.existing {
            if !is_dir {
                existing.walk.skip_folder();
            }
            existing.advance()?;
        }
        if !same {
            return self.write(told, ChangeKind::Modify, Some(found.meta));
        }
        if is_dir {
            let mtime = Time::from_nanos(told.stat.mod_time);
            let touched = found.meta.mtime != mtime;
            self.parents.push(Touched { path: told.stat.path, mtime, touched });
        }
        Ok(())
    }

    fn is_same(&mut self, found: &Found, told: &Stat) -> Result<bool> {
        let Some(existing) = &mut self.existing else { return Ok(false) };
        let mine = existing.stats.stat(found)?;
        if self.options.compare == Compare::Nothing {
            return Ok(false);
        }
        let mut told = told.clone();
        if let Some(filter) = &self.options.filter {
            filter(&mut told);
        }
        let is_dir = found.meta.is_dir();
        Ok(mine.mode == told.mode
            && (mine.uid, mine.gid) == (told.uid, told.gid)
            && (mine.devmajor, mine.devminor) == (told.devmajor, told.devminor)
            && mine.linkname == told.linkname
            && (is_dir || (mine.size == told.size && mine.mod_time == told.mod_time)))
    }

    fn about_to_change(&mut self) -> Result<()> {
        match self.options.before_change.take() {
            Some(prepare) => prepare().at("prepare to change", ""),
            None => Ok(()),
        }
    }

    fn delete_next(&mut self) -> Result<()> {
        let Some(existing) = &mut self.existing else { return Ok(()) };
        let Some(found) = existing.next.take() else { return Ok(()) };
        existing.walk.skip_folder();
        existing.advance()?;
        let mut gone = Stat { path: found.path.clone(), ..Stat::default() };
        if self.options.filter.as_ref().is_some_and(|filter| !filter(&mut gone)) {
            return Ok(());
        }
        self.about_to_change()?;
        self.folders.forget(&found.path);
        found.dir.remove_all(&found.name).at("remove", os_path(&found.path).unwrap_or_default())?;
        self.touch(&found.path);
        self.plan.changes.push(Change {
            kind: ChangeKind::Delete,
            path: found.path,
            stat: None,
            digest: None,
        });
        Ok(())
    }

    /// Makes what can be made now, and asks for what cannot.
    fn write(&mut self, told: Told, change: ChangeKind, existing: Option<Metadata>) -> Result<()> {
        let mut stat = told.stat.clone();
        if self.options.filter.as_ref().is_some_and(|filter| !filter(&mut stat)) {
            return Ok(());
        }
        self.about_to_change()?;
        let path = told.stat.path.clone();
        self.touch(&path);
        let kind = go_mode::kind(stat.mode).unwrap_or(Kind::File);
        match kind {
            Kind::Dir => self.make_dir(&stat, existing.as_ref())?,
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.make_other(&stat, kind)?
            }
            Kind::File | Kind::Socket if stat.linkname.is_empty() => {
                self.folders.forget(&path);
                return self.request(told, stat, change, existing.is_some());
            }
            Kind::File | Kind::Socket => {
                self.folders.forget(&path);
                self.plan.links.push((path.clone(), stat.linkname.clone()));
            }
        }
        let linked = kind == Kind::File && !stat.linkname.is_empty();
        let digest = (self.options.hash && !linked).then(|| FileHash::new(&told.stat).finish());
        self.plan.changes.push(Change { kind: change, path, stat: Some(told.stat), digest });
        Ok(())
    }

    fn request(&mut self, told: Told, stat: Stat, change: ChangeKind, replaces: bool) -> Result<()> {
        let hash = self.options.hash.then(|| FileHash::new(&told.stat));
        let pending = Pending { told: told.stat, stat, change, replaces, hash };
        self.requested.lock().unwrap_or_else(PoisonError::into_inner).insert(told.id, pending);
        self.plan.requested += 1;
        self.requests.send(told.id).map_err(|_| Error::Canceled)
    }

    fn make_dir(&mut self, stat: &Stat, existing: Option<&Metadata>) -> Result<()> {
        let (parent, name) = split(&stat.path);
        let at = || os_path(&stat.path).unwrap_or_default();
        let folder = self.folders.get(parent)?;
        let name = os_name(name).at("mkdir", at())?;
        let mode = go_mode::unix(stat.mode);
        if existing.is_some_and(|m| !m.is_dir()) {
            folder.dir.remove_all(&name).at("remove", at())?;
        }
        match folder.dir.mkdir(&name, mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.options.merge => {
                if !folder.dir.stat(&name).at("lstat", at())?.is_dir() {
                    folder.dir.remove_all(&name).at("remove", at())?;
                    folder.dir.mkdir(&name, mode).at("mkdir", at())?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && existing.is_some() => {}
            made => made.at("mkdir", at())?,
        }
        set_metadata(&folder.dir, &name, stat, None).at("set metadata of", at())?;
        let mtime = Time::from_nanos(stat.mod_time);
        self.parents.push(Touched { path: stat.path.clone(), mtime, touched: true });
        Ok(())
    }

    /// Links, devices and pipes: made aside and renamed, so that what was there is never half gone.
    fn make_other(&mut self, stat: &Stat, kind: Kind) -> Result<()> {
        let (parent, name) = split(&stat.path);
        let at = || os_path(&stat.path).unwrap_or_default();
        self.folders.forget(&stat.path);
        let folder = self.folders.get(parent)?;
        let name = os_name(name).at("create", at())?;
        let make = |name: &std::ffi::OsStr| match kind {
            Kind::Symlink => folder.dir.symlink(&os_path(&stat.linkname)?, name),
            _ => folder.dir.mknod(name, kind, go_mode::unix(stat.mode), device(stat)?),
        };
        let made = match make(&name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let aside = temporary_name();
                make(&aside).and_then(|()| replace(&folder.dir, &aside, &name))
            }
            made => made,
        };
        made.at("create", at())?;
        set_metadata(&folder.dir, &name, stat, Some(SetTimes::both(Time::from_nanos(stat.mod_time))))
            .at("set metadata of", at())
    }

    /// Something in the folder of `path` changes: its time is set again at the end.
    fn touch(&mut self, path: &[u8]) {
        let (parent, _) = split(path);
        if let Some(folder) = self.parents.iter_mut().rev().find(|f| f.path == parent) {
            folder.touched = true;
        }
    }

    /// Folders that `path` is not in are done with.
    fn leave(&mut self, path: &[u8]) {
        while let Some(folder) = self.parents.pop_if(|f| path.is_empty() || !is_within(path, &f.path)) {
            if folder.touched {
                self.plan.times.push((folder.path, folder.mtime));
            }
        }
    }
}

impl Plan {
    /// Hard links, the times of folders, the list of a metadata-only transfer: when all files are there.
    pub(crate) fn finish(&self, root: &Root) -> Result<()> {
        let mut sources = Folders::new(root)?;
        let mut folders = Folders::new(root)?;
        for (path, target) in &self.links {
            let at = || os_path(path).unwrap_or_default();
            let (source, source_name) = split(target);
            let (parent, name) = split(path);
            let (source, folder) = (sources.get(source)?, folders.get(parent)?);
            let (source_name, name) =
                (os_name(source_name).at("link", at())?, os_name(name).at("link", at())?);
            link(&source.dir, &source_name, &folder.dir, &name).at("link", at())?;
        }
        for (path, mtime) in &self.times {
            let at = || os_path(path).unwrap_or_default();
            let (parent, name) = split(path);
            let name = os_name(name).at("utimes", at())?;
            folders.get(parent)?.dir.set_times(&name, SetTimes::both(*mtime)).at("utimes", at())?;
        }
        if let Some(list) = &self.metadata {
            root.write(METADATA_FILE, list, 0o644)?;
        }
        Ok(())
    }
}

/// Renames a finished entry over what is there, which may be a folder.
pub(crate) fn replace(dir: &Dir, aside: &std::ffi::OsStr, name: &std::ffi::OsStr) -> io::Result<()> {
    match dir.rename(aside, dir, name) {
        Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty) => {
            dir.remove_all(name)?;
            dir.rename(aside, dir, name)
        }
        done => done,
    }
}

fn link(source: &Dir, source_name: &std::ffi::OsStr, dir: &Dir, name: &std::ffi::OsStr) -> io::Result<()> {
    match source.hard_link(source_name, dir, name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if dir.stat(name)?.inode == source.stat(source_name)?.inode {
                return Ok(());
            }
            dir.remove_all(name)?;
            source.hard_link(source_name, dir, name)
        }
        done => done,
    }
}

fn device(stat: &Stat) -> io::Result<(u32, u32)> {
    let number = |n: i64| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    Ok((number(stat.devmajor)?, number(stat.devminor)?))
}

/// Owner, mode (not of links), attributes and times of an entry that is no regular file.
fn set_metadata(dir: &Dir, name: &std::ffi::OsStr, stat: &Stat, times: Option<SetTimes>) -> io::Result<()> {
    for (key, value) in &stat.xattrs {
        // File systems differ in what they keep; the reference does not insist either.
        dir.set_xattr(name, key, value).unwrap_or_default();
    }
    let now = dir.stat(name)?;
    if (now.uid, now.gid) != (stat.uid, stat.gid) {
        dir.chown(name, stat.uid, stat.gid)?;
    }
    let mode = go_mode::unix(stat.mode);
    if stat.mode & go_mode::SYMLINK == 0 && (now.mode != mode || mode & 0o7000 != 0) {
        dir.chmod(name, mode)?;
    }
    times.map_or(Ok(()), |times| dir.set_times(name, times))
}
