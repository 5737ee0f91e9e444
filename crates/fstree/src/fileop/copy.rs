//! A copy from its paths to the tree it works on.

use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use kiln_pattern::Matcher;
use kiln_proto::pb;

use super::chmod::ModeChange;
use super::paths::{expand, folder_of, locate, show, shown, tidy};
use super::tree::Copier;
use super::{CopyOptions, make_folders, mode_bits, place, timestamp};
use crate::Root;
use crate::dir::{SetTimes, file};
use crate::error::{Context as _, Error, Result};
use crate::meta::{Metadata, Time};
use crate::root::inside;

/// Mode of folders that nobody named.
const FOLDER_MODE: u32 = 0o755;

/// What becomes of the metadata of everything that is copied.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) owner: Option<super::Owner>,
    /// Twelve bits for everything.
    pub(super) mode: Option<u32>,
    /// Or changes to what it has.
    pub(super) change: Option<ModeChange>,
    pub(super) time: Option<Time>,
}

impl Changes {
    /// Owner and mode that the copy of a file gets.
    pub(super) fn of(&self, meta: &Metadata) -> (u32, u32, u32) {
        let (uid, gid) = self.owner.map_or((meta.uid, meta.gid), |o| (o.uid, o.gid));
        let mode = match (&self.change, self.mode) {
            (Some(change), _) => change.apply(meta.mode, meta.is_dir()),
            (None, Some(mode)) => mode,
            (None, None) => meta.mode,
        };
        (uid, gid, mode)
    }

    /// Times that it gets.
    pub(super) fn times(&self, meta: &Metadata) -> SetTimes {
        self.time.map_or(SetTimes { atime: Some(meta.atime), mtime: Some(meta.mtime) }, SetTimes::both)
    }

    fn folder_mode(&self) -> u32 {
        self.mode.unwrap_or(FOLDER_MODE) & 0o777
    }
}

/// Copies from one tree to another (or the same), as `action` says.
///
/// # Errors
/// If the source is not there, the destination is in the way, or the trees cannot be read or written.
pub fn copy(src: &Root, dest: &Root, action: &pb::FileActionCopy, options: &CopyOptions<'_>) -> Result<()> {
    let source = tidy(&action.src);
    if !action.create_dest_path {
        let target = dest.resolve(&action.dest)?;
        let parent = target.parent().unwrap_or(Path::new(""));
        dest.stat(parent).map_err(|e| show(e, parent))?;
    }
    let sources = if action.allow_wildcard {
        let found = expand(src, &source, action.follow_symlink)?;
        if found.is_empty() && !action.allow_empty_wildcard {
            return Err(Error::Refused(format!("{source} not found")));
        }
        found
    } else {
        vec![inside(Path::new(&source))]
    };
    let change = if action.mode_str.is_empty() { None } else { Some(ModeChange::parse(&action.mode_str)?) };
    let mode = (change.is_none() && action.mode != -1).then(|| mode_bits(action.mode) & 0o7777);
    let changes = Changes { owner: options.owner, mode, change, time: timestamp(action.timestamp) };
    // As with cp: `d/.` is what is in `d`, whether or not there is something to put `d` itself into.
    let nameless = !action.allow_wildcard && source.ends_with("/.");
    let copy = Copy {
        nameless,
        src,
        dest,
        action,
        options,
        changes,
        include: matcher(&action.include_patterns, "includepatterns")?,
        exclude: matcher(&action.exclude_patterns, "excludepatterns")?,
    };
    let mut made = Vec::new();
    let done = sources.iter().try_for_each(|source| copy.one(source, &mut made));
    // Writing into them has changed their times.
    for path in made.iter().rev() {
        if let (Some(time), Some((dir, name))) = (copy.changes.time, place(dest, path)?) {
            dir.set_times(&name, SetTimes::both(time)).at("utimes", shown(path))?;
        }
    }
    done
}

fn matcher(patterns: &[String], list: &'static str) -> Result<Option<Matcher>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    Matcher::new(patterns).map(Some).map_err(|source| Error::Pattern { list, source })
}

struct Copy<'a> {
    src: &'a Root,
    dest: &'a Root,
    action: &'a pb::FileActionCopy,
    options: &'a CopyOptions<'a>,
    changes: Changes,
    nameless: bool,
    include: Option<Matcher>,
    exclude: Option<Matcher>,
}

impl Copy<'_> {
    fn one(&self, source: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
        if self.action.attempt_unpack_docker_compatibility && self.unpack(source, made)? {
            return Ok(());
        }
        let target = tidy(&self.action.dest);
        let folder = folder_of(&target);
        if !folder.is_empty() {
            made.extend(self.make(&self.dest.resolve(folder)?)?);
        }
        let target = self.dest.resolve(&target)?;
        let real = locate(self.src, source, self.action.follow_symlink)?;
        let meta = self.src.stat(&real).map_err(|e| show(e, &real))?;
        let target = self.prepare(source, &meta, target, made)?;
        let copier = Copier {
            src: self.src,
            dest: self.dest,
            changes: &self.changes,
            include: self.include.as_ref(),
            exclude: self.exclude.as_ref(),
            replace: self.action.always_replace_existing_dest_paths,
            transfer: self.options.transfer,
            cancelled: self.options.cancelled,
        };
        copier.run(&real, &meta, &target)
    }

    fn make(&self, path: &Path) -> Result<Vec<PathBuf>> {
        make_folders(self.dest, path, self.changes.folder_mode(), self.changes.owner, self.changes.time)
    }

    /// Where exactly the source goes; makes the folder that it goes into.
    fn prepare(
        &self,
        source: &Path,
        meta: &Metadata,
        mut target: PathBuf,
        made: &mut Vec<PathBuf>,
    ) -> Result<PathBuf> {
        let there = match self.dest.stat_follow(&target) {
            Ok(there) => Some(there),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(show(e, &target)),
        };
        let contents = self.action.dir_copy_contents && meta.is_dir();
        let goes_into = if meta.is_dir() {
            !contents && there.is_some()
        } else {
            there.as_ref().is_some_and(Metadata::is_dir)
        };
        if goes_into && !self.nameless {
            // The root has no name to go by.
            target = source.file_name().map_or(target.clone(), |name| target.join(name));
        }
        let folder = if contents && there.is_none() { Some(target.as_path()) } else { target.parent() };
        if let Some(folder) = folder {
            made.extend(self.make(folder)?);
        }
        Ok(target)
    }

    /// True if the source was an archive, which now lies unpacked in the destination.
    fn unpack(&self, source: &Path, made: &mut Vec<PathBuf>) -> Result<bool> {
        let Some(unpack) = self.options.unpack else {
            return Err(Error::Unsupported("unpacking archives in a copy"));
        };
        let real = self.src.resolve(source)?;
        match self.src.stat(&real) {
            Ok(meta) if meta.is_file() => {}
            _ => return Ok(false),
        }
        let mut archive = self.src.open_file(&real).map_err(|e| show(e, &real))?;
        if !file::metadata(&archive).at("stat", shown(&real))?.is_file() || !unpack.probe(&mut archive)? {
            return Ok(false);
        }
        archive.seek(SeekFrom::Start(0)).at("seek", shown(&real))?;
        let target = self.dest.resolve(tidy(&self.action.dest))?;
        made.extend(make_folders(self.dest, &target, FOLDER_MODE, self.changes.owner, self.changes.time)?);
        let folder = self.dest.subtree(&target).map_err(|e| show(e, &target))?;
        let named = |error| match error {
            Error::Refused(why) => Error::Refused(format!("{}: {why}", shown(&real).display())),
            other => other,
        };
        unpack.unpack(archive, &folder, self.changes.owner).map_err(named)?;
        Ok(true)
    }
}
