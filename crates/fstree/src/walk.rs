//! Walking a tree in the order of the protocols: a folder, what is in it, the next name; names by their bytes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kiln_pattern::{MatchInfo, Matcher};
use kiln_proto::fsutil::Stat;

use crate::Root;
use crate::dir::{Dir, DirEntry};
use crate::error::{Context as _, Error, Result};
use crate::filter::{Filter, MapFn, Mapped};
use crate::follow::follow_paths;
use crate::meta::{Kind, Metadata, go_mode};
use crate::names::{self, lossy, name_bytes, path_bytes};

/// An entry that a walk came to.
#[derive(Debug)]
pub struct Found {
    /// Relative, clean, `/`-separated.
    pub path: Bytes,
    /// The folder it is in.
    pub dir: Arc<Dir>,
    /// Its name there.
    pub name: OsString,
    /// What it is.
    pub meta: Metadata,
}

/// All entries of a tree below its root. What vanishes while the walk comes to it was never there.
#[derive(Debug)]
pub struct Walk {
    levels: Vec<Level>,
    /// A folder that was handed out last, and is entered next unless somebody says no.
    entering: Option<(Arc<Dir>, OsString, Vec<u8>)>,
    failed: bool,
}

#[derive(Debug)]
struct Level {
    dir: Arc<Dir>,
    /// With a `/` at its end; empty at the top.
    prefix: Vec<u8>,
    entries: std::vec::IntoIter<DirEntry>,
}

impl Walk {
    /// A walk over all of `root`.
    ///
    /// # Errors
    /// If the root cannot be read.
    pub fn new(root: &Root) -> Result<Self> {
        let dir = Arc::new(root.dir().try_clone().at("open", "/")?);
        let entries = dir.list().at("readdir", "/")?.into_iter();
        Ok(Self { levels: vec![Level { dir, prefix: Vec::new(), entries }], entering: None, failed: false })
    }

    /// Does not enter the folder that was handed out last.
    pub fn skip_folder(&mut self) {
        self.entering = None;
    }

    /// Leaves the folder that the last entry is in.
    pub fn skip_rest(&mut self) {
        self.entering = None;
        self.levels.pop();
    }

    fn enter(&mut self) -> Result<()> {
        let Some((parent, name, prefix)) = self.entering.take() else { return Ok(()) };
        let path = || names::os_path(prefix.strip_suffix(b"/").unwrap_or(&prefix)).unwrap_or_default();
        let opened = parent.open_dir(&name).and_then(|dir| Ok((dir.list()?, dir)));
        match opened {
            Ok((entries, dir)) => {
                self.levels.push(Level { dir: Arc::new(dir), prefix, entries: entries.into_iter() });
                Ok(())
            }
            Err(e) if gone(&e) => Ok(()),
            Err(e) => Err(e).at("open", path()),
        }
    }

    fn step(&mut self) -> Result<Option<Found>> {
        self.enter()?;
        while let Some(level) = self.levels.last_mut() {
            let Some(entry) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let mut path = level.prefix.clone();
            path.extend_from_slice(&name_bytes(&entry.name));
            let meta = match level.dir.stat(&entry.name) {
                Ok(meta) => meta,
                Err(e) if gone(&e) => continue,
                Err(e) => return Err(e).at("lstat", names::os_path(&path).unwrap_or_default()),
            };
            let dir = level.dir.clone();
            if meta.is_dir() {
                let mut prefix = Vec::with_capacity(path.len() + 1);
                prefix.extend_from_slice(&path);
                prefix.push(b'/');
                self.entering = Some((dir.clone(), entry.name.clone(), prefix));
            }
            return Ok(Some(Found { path: path.into(), dir, name: entry.name, meta }));
        }
        Ok(None)
    }
}

impl Iterator for Walk {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

fn gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Makes the messages of the protocols, and knows which files are names of one and the same.
#[derive(Debug, Default)]
pub struct Stats {
    seen: HashMap<(u64, u64), Bytes>,
    /// Whether extended attributes are read.
    xattrs: bool,
}

impl Stats {
    /// For transfers, which carry extended attributes.
    #[must_use]
    pub fn with_xattrs() -> Self {
        Self { seen: HashMap::new(), xattrs: true }
    }

    /// The protocol's form of an entry. The second and later names of a file have the first as link name.
    ///
    /// # Errors
    /// If a link or the attributes cannot be read.
    pub fn stat(&mut self, found: &Found) -> Result<Stat> {
        let meta = &found.meta;
        let mut stat = to_stat(found.path.clone(), meta);
        let at =
            |op| move |e| Error::Io { op, path: names::os_path(&found.path).unwrap_or_default(), source: e };
        match meta.kind {
            Kind::Symlink => {
                let target = found.dir.read_link(&found.name).map_err(at("readlink"))?;
                stat.linkname = path_bytes(&target).into();
            }
            Kind::Dir => {}
            _ if meta.links > 1 => {
                if let Some(first) = self.seen.get(&meta.inode) {
                    stat.linkname = first.clone();
                } else {
                    self.seen.insert(meta.inode, found.path.clone());
                }
            }
            _ => {}
        }
        if self.xattrs {
            let mut xattrs = found.dir.xattrs(&found.name).map_err(at("listxattr"))?;
            // What macOS adds by itself is nobody's content.
            xattrs.retain(|name, _| !name.starts_with("com.apple."));
            stat.xattrs = xattrs;
        }
        Ok(stat)
    }

    /// An entry that was not handed on after all cannot be what a later one links to.
    fn forget(&mut self, found: &Found) {
        if self.seen.get(&found.meta.inode) == Some(&found.path) {
            self.seen.remove(&found.meta.inode);
        }
    }
}

/// Metadata in the protocol's form, without link name and attributes.
#[must_use]
pub fn to_stat(path: Bytes, meta: &Metadata) -> Stat {
    Stat {
        path,
        // Sockets are sent as empty files, as archives cannot hold them.
        mode: meta.go_mode() & !go_mode::SOCKET,
        uid: meta.uid,
        gid: meta.gid,
        size: if meta.is_dir() { 0 } else { i64::try_from(meta.size).unwrap_or(i64::MAX) },
        mod_time: meta.mtime.as_nanos(),
        linkname: Bytes::new(),
        devmajor: meta.device.0.into(),
        devminor: meta.device.1.into(),
        xattrs: crate::Xattrs::new(),
    }
}

/// A walk that keeps to a [`Filter`]. Folders that only lie on the way to something included are handed out just
/// before it; folders in which nothing can be included are not entered.
pub struct FilteredWalk {
    walk: Walk,
    stats: Stats,
    include: Option<Matcher>,
    exclude: Option<Matcher>,
    map: Option<MapFn>,
    parents: Vec<Parent>,
    ready: std::collections::VecDeque<Stat>,
}

struct Parent {
    found: Option<Found>,
    path: Bytes,
    include: MatchInfo,
    exclude: MatchInfo,
    skip: bool,
}

impl FilteredWalk {
    /// A walk over the part of `root` that `filter` means. With `xattrs`, extended attributes are read.
    ///
    /// # Errors
    /// If a pattern is malformed or the root cannot be read.
    pub fn new(root: &Root, filter: &Filter, xattrs: bool) -> Result<Self> {
        let mut include = filter.include.clone();
        if let Some(followed) = follow_paths(root, &filter.follow_paths)? {
            include.extend(followed);
            include = crate::follow::without_nested(include).unwrap_or_default();
        }
        let matcher = |list, patterns: &[String]| {
            if patterns.is_empty() {
                return Ok(None);
            }
            Matcher::new(patterns).map(Some).map_err(|source| Error::Pattern { list, source })
        };
        Ok(Self {
            walk: Walk::new(root)?,
            stats: Stats { xattrs, ..Stats::default() },
            include: matcher("includepatterns", &include)?,
            exclude: matcher("excludepatterns", &filter.exclude)?,
            map: filter.map.clone(),
            parents: Vec::new(),
            ready: std::collections::VecDeque::new(),
        })
    }

    fn step(&mut self) -> Result<Option<Stat>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Ok(Some(ready));
            }
            match self.walk.next() {
                None => return Ok(None),
                Some(Err(e)) => return Err(e),
                Some(Ok(found)) => self.consider(found)?,
            }
        }
    }

    /// Puts the entry, and those of its folders that are due, into `ready`, if the filter lets it pass.
    fn consider(&mut self, found: Found) -> Result<()> {
        while self.parents.last().is_some_and(|p| !below(&found.path, &p.path)) {
            self.parents.pop();
        }
        let is_dir = found.meta.is_dir();
        let (wanted, include, exclude) = self.matches(&found);
        let Some(wanted) = wanted else {
            self.walk.skip_folder();
            return Ok(());
        };
        let filtered = self.include.is_some() || self.exclude.is_some();
        let path = found.path.clone();
        let pending = if wanted {
            self.offer(&found)?;
            None
        } else {
            Some(found)
        };
        if filtered && is_dir {
            self.parents.push(Parent { found: pending, path, include, exclude, skip: false });
        }
        Ok(())
    }

    /// Whether an entry is meant; `None` for a folder in which nothing can be.
    fn matches(&self, found: &Found) -> (Option<bool>, MatchInfo, MatchInfo) {
        let (mut wanted, mut include, mut exclude) = (true, MatchInfo::default(), MatchInfo::default());
        if self.include.is_none() && self.exclude.is_none() {
            return (Some(true), include, exclude);
        }
        let path = lossy(&found.path);
        let parent = self.parents.last();
        if let Some(matcher) = &self.include {
            let (yes, info) = matcher.matches_in(&path, parent.map(|p| &p.include));
            include = info;
            if !yes {
                wanted = false;
                if found.meta.is_dir() && !matcher.may_match_below(&path) {
                    return (None, include, exclude);
                }
            }
        }
        if let Some(matcher) = &self.exclude {
            let (yes, info) = matcher.matches_in(&path, parent.map(|p| &p.exclude));
            exclude = info;
            if yes {
                wanted = false;
                if found.meta.is_dir() && !matcher.may_except_below(&path) {
                    return (None, include, exclude);
                }
            }
        }
        (Some(wanted), include, exclude)
    }

    fn offer(&mut self, found: &Found) -> Result<()> {
        let mut stat = self.stats.stat(found)?;
        match self.ask(&mut stat) {
            Mapped::Keep => {}
            Mapped::Exclude => {
                self.stats.forget(found);
                return Ok(());
            }
            Mapped::SkipDir => {
                self.stats.forget(found);
                if found.meta.is_dir() {
                    self.walk.skip_folder();
                } else {
                    self.walk.skip_rest();
                }
                return Ok(());
            }
        }
        for i in 0..self.parents.len() {
            let parent = &mut self.parents[i];
            if parent.skip {
                self.walk.skip_folder();
                return Ok(());
            }
            let Some(pending) = parent.found.take() else { continue };
            let mut parent_stat = self.stats.stat(&pending)?;
            match self.ask(&mut parent_stat) {
                Mapped::Keep => self.ready.push_back(parent_stat),
                Mapped::Exclude => self.parents[i].found = Some(pending),
                Mapped::SkipDir => {
                    self.parents[i].skip = true;
                    self.walk.skip_folder();
                    return Ok(());
                }
            }
        }
        self.ready.push_back(stat);
        Ok(())
    }

    fn ask(&self, stat: &mut Stat) -> Mapped {
        self.map.as_ref().map_or(Mapped::Keep, |map| map(stat))
    }
}

impl Iterator for FilteredWalk {
    type Item = Result<Stat>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

fn below(path: &[u8], dir: &[u8]) -> bool {
    path.len() > dir.len() && names::is_within(path, dir)
}

#[cfg(all(test, unix))]
mod tests;
