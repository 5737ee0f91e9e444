//! Going through what is copied: which entries, into which folders, in which order.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_pattern::{MatchInfo, Matcher};

use super::Transfer;
use super::copy::Changes;
use super::files::{Files, Job, Pool, Target, make_way};
use super::paths::{show, shown};
use crate::Root;
use crate::dir::{Dir, DirEntry};
use crate::error::{Context as _, Error, Result};
use crate::meta::{Kind, Metadata};
use crate::names::{lossy, name_bytes};

/// One source and where it goes, both resolved.
pub(super) struct Copier<'a> {
    pub(super) src: &'a Root,
    pub(super) dest: &'a Root,
    pub(super) changes: &'a Changes,
    pub(super) include: Option<&'a Matcher>,
    pub(super) exclude: Option<&'a Matcher>,
    pub(super) replace: bool,
    pub(super) transfer: Transfer<'a>,
    pub(super) cancelled: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl Copier<'_> {
    /// Copies `real`, which is `meta`, to `target`; paths are without links (but for the last component).
    pub(super) fn run(&self, real: &Path, meta: &Metadata, target: &Path) -> Result<()> {
        let files = Files::new(self.changes, self.replace, self.transfer);
        let mut later = Later::default();
        std::thread::scope(|scope| {
            let mut pool = Pool::new(scope, &files);
            let walked = if meta.is_dir() {
                self.folder(real, meta, target, &mut pool, &mut later)
            } else {
                self.single(real, meta, target, &mut pool, &mut later)
            };
            pool.finish(walked)
        })?;
        later.finish(self)
    }

    fn single(
        &self,
        real: &Path,
        meta: &Metadata,
        target: &Path,
        pool: &mut Pool<'_, '_>,
        later: &mut Later,
    ) -> Result<()> {
        let (src, name) = self.src.parent(real).map_err(|e| show(e, real))?;
        let (dir, target_name) = self.dest.parent(target).map_err(|e| show(e, target))?;
        let path = target.parent().unwrap_or(Path::new("")).to_owned();
        let to = Arc::new(open_target(dir, path)?);
        self.entry(&Arc::new(src), name, meta.clone(), &to, target_name, pool, later)
    }

    /// Copies a folder and what is in it. The folder itself keeps its metadata if it is there already, but for times.
    fn folder(
        &self,
        real: &Path,
        meta: &Metadata,
        target: &Path,
        pool: &mut Pool<'_, '_>,
        later: &mut Later,
    ) -> Result<()> {
        let src = Arc::new(self.src.open_dir(real).map_err(|e| show(e, real))?);
        let mut made = false;
        if !target.as_os_str().is_empty() {
            let (dir, name) = self.dest.parent(target).map_err(|e| show(e, target))?;
            made = self.make_folder(&dir, &name, meta, true, target)?;
            if made {
                copy_xattrs(&src, &dir, &name).at("listxattr", shown(real))?;
            }
        }
        let dir = self.dest.open_dir(target).map_err(|e| show(e, target))?;
        let to = Arc::new(open_target(dir, target.to_owned())?);
        let entries = src.list().at("readdir", shown(real))?.into_iter();
        let top = Level {
            src,
            entries,
            path: String::new(),
            meta: meta.clone(),
            name: OsString::new(),
            to: Some(to),
            include: None,
            exclude: None,
        };
        self.walk(top, pool, later)?;
        // Found first, finished last.
        let finish = if made { Finish::All } else { Finish::Times };
        later.folders.insert(0, (target.to_owned(), meta.clone(), finish));
        Ok(())
    }

    fn walk(&self, top: Level, pool: &mut Pool<'_, '_>, later: &mut Later) -> Result<()> {
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            if self.cancelled.is_some_and(|cancelled| cancelled()) {
                return Err(Error::Canceled);
            }
            let Some(entry) = level.entries.next() else {
                levels.pop();
                continue;
            };
            if let Some(below) = self.next(&mut levels, entry, pool, later)? {
                levels.push(below);
            }
        }
        Ok(())
    }

    /// Copies one entry of the last level; what is returned is to be gone through next.
    fn next(
        &self,
        levels: &mut [Level],
        entry: DirEntry,
        pool: &mut Pool<'_, '_>,
        later: &mut Later,
    ) -> Result<Option<Level>> {
        let Some(level) = levels.last() else { return Ok(None) };
        let name = lossy(&name_bytes(&entry.name)).into_owned();
        let path = if level.path.is_empty() { name } else { format!("{}/{name}", level.path) };
        let (wanted, excluded, include, exclude) = self.matches(&path, level);
        if !wanted
            && (entry.kind.is_some_and(|kind| kind != Kind::Dir) || self.nothing_below(&path, excluded))
        {
            return Ok(None);
        }
        let src = level.src.clone();
        let meta = src.stat(&entry.name).at("lstat", Path::new("/").join(&path))?;
        if !meta.is_dir() {
            if wanted {
                let to = self.open_levels(levels, later)?;
                self.entry(&src, entry.name.clone(), meta, &to, entry.name, pool, later)?;
            }
            return Ok(None);
        }
        let below = src.open_dir(&entry.name).at("open", Path::new("/").join(&path))?;
        let entries = below.list().at("readdir", Path::new("/").join(&path))?.into_iter();
        let mut below =
            Level { src: Arc::new(below), entries, path, meta, name: entry.name, to: None, include, exclude };
        if wanted {
            let parent = self.open_levels(levels, later)?;
            self.open_level(&mut below, &parent, true, later)?;
        }
        Ok(Some(below))
    }

    /// Whether an entry is meant, whether it is an exclude that says no, and what its own entries build on.
    fn matches(&self, path: &str, level: &Level) -> (bool, bool, Option<MatchInfo>, Option<MatchInfo>) {
        let (mut wanted, mut excluded, mut include, mut exclude) = (true, false, None, None);
        if let Some(matcher) = self.include {
            let (yes, info) = matcher.matches_in(path, level.include.as_ref());
            (wanted, include) = (yes, Some(info));
        }
        if let Some(matcher) = self.exclude {
            let (yes, info) = matcher.matches_in(path, level.exclude.as_ref());
            (excluded, exclude) = (yes, Some(info));
        }
        (wanted && !excluded, excluded, include, exclude)
    }

    /// Whether nothing in a folder that is not meant can be.
    fn nothing_below(&self, path: &str, excluded: bool) -> bool {
        if excluded {
            return self.exclude.is_none_or(|matcher| !matcher.may_except_below(path));
        }
        self.include.is_some_and(|matcher| !matcher.may_match_below(path))
    }

    /// The destination of the last level; folders on the way that were not meant themselves are made now.
    fn open_levels(&self, levels: &mut [Level], later: &mut Later) -> Result<Arc<Target>> {
        let first = levels.iter().rposition(|level| level.to.is_some()).unwrap_or(0);
        let mut to = match levels.get(first).and_then(|level| level.to.clone()) {
            Some(to) => to,
            None => return Err(Error::Refused("a copy without a destination".to_owned())),
        };
        for level in levels.iter_mut().skip(first + 1) {
            to = self.open_level(level, &to, false, later)?;
        }
        Ok(to)
    }

    /// Makes the destination of a level. A folder that was meant gets all metadata of its source; one that only lies
    /// on the way gets them if it is new, and else the mode.
    fn open_level(
        &self,
        level: &mut Level,
        parent: &Target,
        meant: bool,
        later: &mut Later,
    ) -> Result<Arc<Target>> {
        let path = parent.path.join(&level.name);
        let made = self.make_folder(&parent.dir, &level.name, &level.meta, meant, &path)?;
        let finish = if meant || made { Finish::All } else { Finish::Mode };
        later.folders.push((path.clone(), level.meta.clone(), finish));
        if finish == Finish::All {
            copy_xattrs(&level.src, &parent.dir, &level.name)
                .at("listxattr", Path::new("/").join(&level.path))?;
        }
        let dir = parent.dir.open_dir(&level.name).at("open", shown(&path))?;
        let to = Arc::new(open_target(dir, path)?);
        level.to = Some(to.clone());
        Ok(to)
    }

    /// True if it was not there.
    fn make_folder(
        &self,
        dir: &Dir,
        name: &OsStr,
        meta: &Metadata,
        meant: bool,
        path: &Path,
    ) -> Result<bool> {
        let refuse =
            || Err(Error::Refused(format!("cannot copy to non-directory: {}", shown(path).display())));
        match dir.mkdir(name, meta.mode) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if dir.stat(name).at("lstat", shown(path))?.is_dir() {
                    return Ok(false);
                }
                if !(self.replace && meant) {
                    return refuse();
                }
                dir.remove_all(name).and_then(|()| dir.mkdir(name, meta.mode)).at("mkdir", shown(path))?;
                Ok(true)
            }
            Err(e) => Err(e).at("mkdir", shown(path)),
        }
    }

    /// Copies anything but a folder.
    #[expect(clippy::too_many_arguments, reason = "source, destination, and where work and leftovers go")]
    fn entry(
        &self,
        src: &Arc<Dir>,
        name: OsString,
        meta: Metadata,
        target: &Arc<Target>,
        target_name: OsString,
        pool: &mut Pool<'_, '_>,
        later: &mut Later,
    ) -> Result<()> {
        let at = || shown(&target.path.join(&target_name));
        match meta.kind {
            Kind::Dir => Ok(()),
            Kind::File => {
                if meta.links > 1 {
                    if let Some(first) = later.seen.get(&meta.inode) {
                        later.links.push((first.clone(), target.path.join(&target_name)));
                        return Ok(());
                    }
                    later.seen.insert(meta.inode, target.path.join(&target_name));
                }
                pool.add(Job { src: src.clone(), name, meta, target: target.clone(), target_name })
            }
            Kind::Symlink => {
                let link = src.read_link(&name).at("readlink", at())?;
                make_way(&target.dir, &target_name, self.replace, |dir, name| dir.symlink(&link, name))
                    .at("symlink", at())?;
                self.set_metadata(src, &name, &meta, target, &target_name).at("set metadata of", at())
            }
            // A socket is of no use where nobody listens: an empty file stands for it.
            Kind::Socket => {
                let make = |dir: &Dir, name: &OsStr| dir.create_new(name, meta.mode).map(drop);
                make_way(&target.dir, &target_name, self.replace, make).at("create", at())?;
                self.set_metadata(src, &name, &meta, target, &target_name).at("set metadata of", at())
            }
            kind => {
                let make = |dir: &Dir, name: &OsStr| dir.mknod(name, kind, meta.mode, meta.device);
                make_way(&target.dir, &target_name, self.replace, make).at("mknod", at())?;
                self.set_metadata(src, &name, &meta, target, &target_name).at("set metadata of", at())
            }
        }
    }

    fn set_metadata(
        &self,
        src: &Dir,
        name: &OsStr,
        meta: &Metadata,
        target: &Target,
        target_name: &OsStr,
    ) -> io::Result<()> {
        let (uid, gid, mode) = self.changes.of(meta);
        let dir = &target.dir;
        if (uid, gid) != target.owner {
            dir.chown(target_name, uid, gid)?;
        }
        if !meta.is_symlink() {
            dir.chmod(target_name, mode)?;
        }
        for (key, value) in src.xattrs(name)? {
            dir.set_xattr(target_name, &key, &value).unwrap_or_default();
        }
        dir.set_times(target_name, self.changes.times(meta))
    }
}

/// A folder that is being gone through.
struct Level {
    src: Arc<Dir>,
    entries: std::vec::IntoIter<DirEntry>,
    /// Below the source, for patterns.
    path: String,
    name: OsString,
    meta: Metadata,
    /// `None` as long as nothing in it was meant.
    to: Option<Arc<Target>>,
    include: Option<MatchInfo>,
    exclude: Option<MatchInfo>,
}

/// What must wait until all files are written.
#[derive(Default)]
struct Later {
    /// Where the first name of a file with several went.
    seen: HashMap<(u64, u64), PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    /// Where it went, metadata of the source. Outer folders come first.
    folders: Vec<(PathBuf, Metadata, Finish)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// Owner, mode and times.
    All,
    /// The mode of the source as it is.
    Mode,
    /// Times.
    Times,
}

impl Later {
    fn finish(self, copier: &Copier<'_>) -> Result<()> {
        for (first, path) in &self.links {
            let (from, from_name) = copier.dest.parent(first).map_err(|e| show(e, first))?;
            let (dir, name) = copier.dest.parent(path).map_err(|e| show(e, path))?;
            let link = |dir: &Dir, name: &OsStr| from.hard_link(&from_name, dir, name);
            make_way(&dir, &name, copier.replace, link).at("link", shown(path))?;
        }
        for (path, meta, finish) in self.folders.iter().rev() {
            let dir = copier.dest.open_dir(path).map_err(|e| show(e, path))?;
            finish_folder(&dir, meta, *finish, copier.changes).at("set metadata of", shown(path))?;
        }
        Ok(())
    }
}

/// What the destination cannot keep is lost, as in the reference.
fn copy_xattrs(from: &Dir, to: &Dir, name: &OsStr) -> io::Result<()> {
    for (key, value) in from.xattrs_self()? {
        to.set_xattr(name, &key, &value).unwrap_or_default();
    }
    Ok(())
}

fn finish_folder(dir: &Dir, meta: &Metadata, finish: Finish, changes: &Changes) -> io::Result<()> {
    let (uid, gid, mode) = changes.of(meta);
    match finish {
        Finish::Times => {}
        Finish::Mode => return dir.chmod_self(meta.mode),
        Finish::All => {
            let now = dir.stat_self()?;
            if (now.uid, now.gid) != (uid, gid) {
                dir.chown_self(uid, gid)?;
            }
            if now.mode != mode || mode & 0o7000 != 0 {
                dir.chmod_self(mode)?;
            }
        }
    }
    dir.set_times_self(changes.times(meta))
}

fn open_target(dir: Dir, path: PathBuf) -> Result<Target> {
    let owner = dir.owner_of_new().at("stat", shown(&path))?;
    Ok(Target { dir, path, owner })
}
