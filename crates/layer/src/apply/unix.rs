//! The loop over a layer's entries.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::{self, BufRead, Read},
    os::{
        fd::AsFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::PathBuf,
};

use kiln_fstree::Root;
use kiln_oci::Digest;
use rustix::{
    fs::{self, AtFlags, FileType, OFlags, XattrFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{
    Applied, ApplyOptions, Whiteouts,
    tree::{Attributes, Tree, clean, join, open_in_root, split},
};
use crate::{
    LayerFormat,
    compress::Decompressed,
    error::{Error, Result},
    tar::{Header, TarReader, display_path},
    windows,
};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

pub(super) fn apply(input: Decompressed, dest: &Root, options: &ApplyOptions) -> Result<Applied> {
    let mut tar = TarReader::new(Hashing { input, hash: Sha256::new(), size: 0 });
    let mut tree = Tree::new(dest.as_fd(), true, options.max_size);
    let mut unpacked = BTreeSet::new();
    while let Some(mut header) = tar.next_entry()? {
        if options.format == LayerFormat::Windows && !windows::unwrap(&mut header) {
            continue;
        }
        header.path = clean(&header.path);
        if header.path.is_empty() {
            // The root's own entry: its metadata belongs to the snapshot.
            continue;
        }
        let (parent, name) = split(&header.path);
        if let Some(deleted) = name.strip_prefix(PREFIX) {
            match options.whiteouts {
                Whiteouts::Overlay => delete_for_overlay(&mut tree, &header, parent, deleted)?,
                Whiteouts::Delete => delete_now(&mut tree, &header, parent, deleted, &unpacked)?,
            }
            continue;
        }
        let attributes = Attributes::of(&header)?;
        tree.create(&header, &attributes, &mut tar)?;
        if options.whiteouts == Whiteouts::Delete {
            unpacked.insert(header.path);
        }
    }
    let size = tree.written();
    let implied = tree.finish()?.into_iter().map(path_buf).collect();
    let stream = tar.drain()?;
    Ok(Applied {
        diff_id: Digest::from_sha256(stream.hash.finalize().into()),
        diff_size: stream.size,
        size,
        implied,
    })
}

/// `deleted` is the part of a name after `.wh.`.
fn check_whiteout(header: &Header, deleted: &[u8]) -> Result<()> {
    if matches!(deleted, b"" | b"." | b"..") {
        return Err(Error::Archive(format!("{} names no file to delete", display_path(&header.path))));
    }
    Ok(())
}

fn delete_for_overlay(tree: &mut Tree<'_>, header: &Header, parent: &[u8], deleted: &[u8]) -> Result<()> {
    if header.path.ends_with(OPAQUE) {
        return tree.opaque(parent);
    }
    if deleted.starts_with(PREFIX) {
        return Ok(());
    }
    check_whiteout(header, deleted)?;
    let folder = tree.folder(parent)?;
    tree.whiteout(&folder, &header.path, OsStr::from_bytes(deleted))
}

fn delete_now(
    tree: &mut Tree<'_>,
    header: &Header,
    parent: &[u8],
    deleted: &[u8],
    unpacked: &BTreeSet<Vec<u8>>,
) -> Result<()> {
    if header.path.ends_with(OPAQUE) {
        return tree.empty(parent, &|path| made_here(unpacked, path));
    }
    if deleted.starts_with(PREFIX) {
        return Ok(());
    }
    check_whiteout(header, deleted)?;
    let path = join(parent, deleted);
    if unpacked.contains(&path) {
        return Ok(());
    }
    tree.remove_path(&path)
}

/// Whether the layer itself made `path` or something below it.
fn made_here(unpacked: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
    let below = join(path, b"");
    unpacked.contains(path)
        || unpacked.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below))
}

fn path_buf(path: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

pub(super) fn adopt_parents(upper: &Root, implied: &[PathBuf], lower: &Root) -> Result<()> {
    for path in implied {
        let path = path.as_os_str().as_bytes();
        adopt(upper, path, lower).map_err(|error| Error::unpack(path, "adopt the folder below", error))?;
    }
    Ok(())
}

fn adopt(upper: &Root, path: &[u8], lower: &Root) -> rustix::io::Result<()> {
    let from = match open_in_root(lower.as_fd(), path, OFlags::DIRECTORY | OFlags::RDONLY) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error),
    };
    let to = open_in_root(upper.as_fd(), path, OFlags::DIRECTORY | OFlags::RDONLY)?;
    let stat = fs::fstat(&from)?;
    debug_assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Directory);
    fs::fchown(&to, Some(fs::Uid::from_raw(stat.st_uid)), Some(fs::Gid::from_raw(stat.st_gid)))?;
    fs::fchmod(&to, fs::Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(&from, &to)?;
    let times = fs::statx(&from, "", AtFlags::EMPTY_PATH, fs::StatxFlags::BASIC_STATS)?;
    let spec = |t: fs::StatxTimestamp| fs::Timespec { tv_sec: t.tv_sec, tv_nsec: t.tv_nsec.into() };
    let times =
        fs::Timestamps { last_access: spec(times.stx_atime), last_modification: spec(times.stx_mtime) };
    fs::futimens(&to, &times)
}

fn copy_xattrs(from: &impl AsFd, to: &impl AsFd) -> rustix::io::Result<()> {
    let mut list = vec![0; 64 << 10];
    let length = match fs::flistxattr(from, list.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    };
    for name in
        list[..length].split(|&b| b == 0).filter(|name| !name.is_empty() && !name.starts_with(b"trusted."))
    {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; 64 << 10];
        let length = match fs::fgetxattr(from, name, value.as_mut_slice()) {
            Err(Errno::OPNOTSUPP | Errno::NODATA) => continue,
            result => result?,
        };
        match fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Digests what is read.
struct Hashing<R> {
    input: R,
    hash: Sha256,
    size: u64,
}

impl<R: BufRead> BufRead for Hashing<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // The buffer is there already: this reads nothing, and so cannot fail.
        if let Ok(buffer) = self.input.fill_buf() {
            self.hash.update(&buffer[..count]);
        }
        self.size += count as u64;
        self.input.consume(count);
    }
}

impl<R: BufRead> Read for Hashing<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(target.len());
        target[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
