//! Reading what is not known yet: names of folders, and the files themselves, by several threads if there are many.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read as _};

use bytes::Bytes;

use super::Tree;
use super::header::{FileHash, Header};

use super::node::{DEPTH_MAX, Folder, Node, Sum};
use crate::Root;
use crate::cores::cores;
use crate::dir::{Dir, file};
use crate::error::{Context as _, Error, Result};
use crate::meta::{Kind, Metadata, Xattrs};
use crate::names::{name_bytes, os_name, os_path, path_bytes, split};

/// From this many files on, several threads read.
const PARALLEL: usize = 32;
/// A file is read by so much at once.
const BUFFER: usize = 128 * 1024;

/// Lists a folder if nobody has.
pub(super) fn list(folder: &mut Folder, tree: &dyn Tree, path: &[u8]) -> Result<()> {
    if folder.entries.is_some() {
        return Ok(());
    }
    let at = || os_path(path).unwrap_or_default();
    if path.iter().filter(|&&b| b == b'/').count() >= DEPTH_MAX {
        return Err(Error::Refused(format!("folders more than {DEPTH_MAX} deep are not hashed")));
    }
    let dir = tree.root()?.open_dir(at())?;
    let mut entries = BTreeMap::new();
    for entry in dir.list().at("readdir", at())? {
        let kind = match entry.kind {
            Some(kind) => kind,
            None => dir.stat(&entry.name).at("lstat", at())?.kind,
        };
        let node = match kind {
            Kind::Dir => Node::Dir(Folder::default()),
            Kind::Symlink => {
                let target = dir.read_link(&entry.name).at("readlink", at())?;
                Node::Symlink { target: path_bytes(&target).into(), digest: None }
            }
            _ => Node::File { digest: None },
        };
        entries.insert(name_bytes(&entry.name).as_ref().into(), node);
    }
    folder.entries = Some(entries);
    Ok(())
}

/// What has no hash yet: a path, and whether it is a folder, whose header is meant.
pub(super) struct Missing {
    pub(super) path: Vec<u8>,
    pub(super) is_dir: bool,
}

/// The hashes of `missing`, in that order.
pub(super) fn hash_all(tree: &dyn Tree, missing: &[Missing]) -> Result<Vec<Sum>> {
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let root = tree.root()?;
    let threads = cores().min(8);
    if missing.len() < PARALLEL || threads < 2 {
        return hash_some(root, missing);
    }
    // Small shares, so that one with large files does not hold up the others.
    let share = (missing.len() / (threads * 8)).clamp(8, 256);
    let shares: Vec<&[Missing]> = missing.chunks(share).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Vec<Sum>)>> {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(share) = shares.get(index) else { return Ok(done) };
            done.push((index, hash_some(root, share)?));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work()?;
        for other in others {
            let done = other.join().map_err(|_| Error::Refused("a hashing thread panicked".to_owned()))?;
            all.extend(done?);
        }
        Ok::<_, Error>(all)
    })?;
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().flat_map(|(_, sums)| sums).collect())
}

fn hash_some(root: &Root, missing: &[Missing]) -> Result<Vec<Sum>> {
    let mut folder: Option<(&[u8], Dir)> = None;
    let mut buffer = Vec::new();
    let mut sums = Vec::with_capacity(missing.len());
    for Missing { path, is_dir } in missing {
        let at = || os_path(path).unwrap_or_default();
        if path.is_empty() {
            let (meta, xattrs) =
                (root.dir().stat_self().at("stat", "/")?, root.dir().xattrs_self().at("listxattr", "/")?);
            sums.push(sum(start(&meta, &[], &xattrs)));
            continue;
        }
        let (parent, name) = split(path);
        if folder.as_ref().is_none_or(|(open, _)| *open != parent) {
            folder = Some((parent, root.open_dir(os_path(parent).at("open", at())?)?));
        }
        let Some((_, dir)) = &folder else { continue };
        let name = os_name(name).at("open", at())?;
        sums.push(sum(hash(dir, &name, *is_dir, &mut buffer).at("read", at())?));
    }
    Ok(sums)
}

/// The hash of one entry. The path of a folder is resolved by the kernel once for all files in it.
fn hash(dir: &Dir, name: &OsStr, is_dir: bool, buffer: &mut Vec<u8>) -> io::Result<FileHash> {
    let meta = dir.stat(name)?;
    if meta.is_dir() != is_dir {
        return Err(io::Error::other("changed while it was read"));
    }
    if !meta.is_file() {
        let link: Bytes =
            if meta.is_symlink() { path_bytes(&dir.read_link(name)?).into() } else { Bytes::new() };
        return Ok(start(&meta, &link, &dir.xattrs(name)?));
    }
    let mut open = dir.open_file(name)?;
    let mut hash = start(&file::metadata(&open)?, &[], &file::xattrs(&open)?);
    buffer.resize(BUFFER, 0);
    loop {
        match open.read(buffer) {
            Ok(0) => return Ok(hash),
            Ok(len) => hash.update(&buffer[..len]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn start(meta: &Metadata, link: &[u8], xattrs: &Xattrs) -> FileHash {
    FileHash::start(&Header {
        kind: meta.kind,
        mode: if meta.is_symlink() { meta.mode | 0o777 } else { meta.mode },
        uid: meta.uid,
        gid: meta.gid,
        size: meta.size,
        link,
        // BuildKit's scan takes every device for a symbolic link when it looks for the number, and finds none.
        device: (0, 0),
        xattrs,
    })
}

fn sum(hash: FileHash) -> Sum {
    hash.finish_bytes()
}
