use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::Error;

/// Copies the folder `from` to the new folder `to`: files (sharing blocks where the file system can), links, devices,
/// hard links within the tree, modes, owners, extended attributes, times.
pub(in super::super) fn tree(from: &Path, to: &Path) -> Result<(), Error> {
    let mut links = HashMap::new();
    // A folder's times are set when its entries are in place: each folder comes twice.
    let mut todo = vec![(from.to_owned(), to.to_owned(), false)];
    while let Some((from, to, filled)) = todo.pop() {
        let meta = std::fs::symlink_metadata(&from).map_err(Error::io("stat", &from))?;
        if filled {
            attributes(&from, &to, &meta).map_err(Error::io("set attributes of", &to))?;
            continue;
        }
        std::fs::create_dir(&to).map_err(Error::io("create", &to))?;
        todo.push((from.clone(), to.clone(), true));
        for entry in std::fs::read_dir(&from).map_err(Error::io("list", &from))? {
            let entry = entry.map_err(Error::io("list", &from))?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let meta = entry.metadata().map_err(Error::io("stat", &source))?;
            if meta.is_dir() {
                todo.push((source, target, false));
            } else {
                copy_file(&source, &target, &meta, &mut links).map_err(Error::io("copy", &source))?;
            }
        }
    }
    Ok(())
}

fn copy_file(
    source: &Path,
    target: &Path,
    meta: &Metadata,
    links: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    if meta.nlink() > 1 {
        if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
            return std::fs::hard_link(first, target);
        }
        links.insert((meta.dev(), meta.ino()), target.to_owned());
    }
    let kind = meta.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(source)?, target)?;
    } else if kind.is_file() {
        copy_bytes(source, target)?;
    } else {
        let file_type = if kind.is_fifo() {
            FileType::Fifo
        } else if kind.is_socket() {
            FileType::Socket
        } else if kind.is_block_device() {
            FileType::BlockDevice
        } else {
            FileType::CharacterDevice
        };
        rustix::fs::mknodat(CWD, target, file_type, Mode::from_raw_mode(0o600), meta.rdev())?;
    }
    attributes(source, target, meta)
}

fn copy_bytes(source: &Path, target: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    let mut to = File::options().write(true).create_new(true).open(target)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
        io::copy(&mut from, &mut to)?;
    }
    Ok(())
}

fn attributes(source: &Path, target: &Path, meta: &Metadata) -> io::Result<()> {
    lchown(target, Some(meta.uid()), Some(meta.gid()))?;
    xattrs(source, target)?;
    if !meta.is_symlink() {
        // After the owner, whose change takes set-user-id bits away.
        std::fs::set_permissions(target, PermissionsExt::from_mode(meta.mode() & 0o7777))?;
    }
    let time = |seconds, nanos: i64| Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn xattrs(source: &Path, target: &Path) -> io::Result<()> {
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::llistxattr(source, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name)?;
        value.resize(64 << 10, 0);
        let length = rustix::fs::lgetxattr(source, &name, &mut value[..])?;
        match rustix::fs::lsetxattr(target, &name, &value[..length], XattrFlags::empty()) {
            Ok(()) => {}
            // Labels of the host's security module are the host's to give.
            Err(_) if name.as_bytes() == b"security.selinux" => {}
            Err(error) => {
                let name = std::ffi::OsString::from_vec(name.into_bytes());
                let text = format!("extended attribute {}: {error}", name.as_bytes().escape_ascii());
                return Err(io::Error::new(io::Error::from(error).kind(), text));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_a_tree_has() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir_all(a.join("d/e")).unwrap();
        std::fs::write(a.join("d/f"), "text").unwrap();
        std::fs::hard_link(a.join("d/f"), a.join("g")).unwrap();
        std::os::unix::fs::symlink("/nowhere", a.join("l")).unwrap();
        std::fs::set_permissions(a.join("d"), PermissionsExt::from_mode(0o1750)).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::open(a.join("d")).unwrap().set_modified(old).unwrap();
        tree(&a, &b).unwrap();
        let meta = |p: &str| std::fs::symlink_metadata(b.join(p)).unwrap();
        assert_eq!(meta("d").mode() & 0o7777, 0o1750);
        assert_eq!(meta("d").modified().unwrap(), old);
        assert_eq!(meta("g").ino(), meta("d/f").ino());
        assert_ne!(meta("g").ino(), std::fs::metadata(a.join("g")).unwrap().ino());
        assert_eq!(std::fs::read_to_string(b.join("g")).unwrap(), "text");
        assert_eq!(std::fs::read_link(b.join("l")).unwrap(), Path::new("/nowhere"));
    }
}
