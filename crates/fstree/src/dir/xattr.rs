//! Extended attributes of entries and of open files.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Dir;
use crate::meta::{Kind, Xattrs};

/// Largest list of attribute names and largest value that Linux has.
const XATTR_MAX: usize = 64 * 1024;

/// Those of the entry `name` (a link's own), of those that may be read.
pub(super) fn of_entry(dir: &Dir, name: &OsStr) -> io::Result<Xattrs> {
    let (names, path) = match list_at(dir, name) {
        // Most files have none, and that is all there is to know of them.
        Ok(names) if names.is_empty() => return Ok(Xattrs::new()),
        Err(Errno::NOTSUP) => return Ok(Xattrs::new()),
        listed => (listed, proc_path(dir, name)),
    };
    if let (Ok(names), Some(path)) = (names, path) {
        return read_all(&names, |name, buf| rustix::fs::lgetxattr(&path, name, buf));
    }
    // No /proc, or nothing of that name.
    match dir.stat(name)?.kind {
        Kind::File | Kind::Dir => of_file(&dir.open_file(name)?),
        _ => Ok(Xattrs::new()),
    }
}

pub(super) fn set(dir: &Dir, name: &OsStr, key: &str, value: &[u8]) -> io::Result<()> {
    if let Some(path) = proc_path(dir, name) {
        match rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()) {
            Err(Errno::NOENT) => {}
            done => return Ok(done?),
        }
    }
    Ok(rustix::fs::fsetxattr(dir.open_file(name)?, key, value, XattrFlags::empty())?)
}

pub(super) fn remove(dir: &Dir, name: &OsStr, key: &str) -> io::Result<()> {
    if let Some(path) = proc_path(dir, name) {
        match rustix::fs::lremovexattr(path, key) {
            Err(Errno::NOENT) => {}
            done => return Ok(done?),
        }
    }
    Ok(rustix::fs::fremovexattr(dir.open_file(name)?, key)?)
}

/// Extended attributes of an open file or folder.
///
/// # Errors
/// Those of `flistxattr(2)`.
pub fn of_file(file: &File) -> io::Result<Xattrs> {
    match list(|buf| rustix::fs::flistxattr(file, buf)) {
        Ok(names) => read_all(&names, |name, buf| rustix::fs::fgetxattr(file, name, buf)),
        Err(Errno::NOTSUP) => Ok(Xattrs::new()),
        Err(e) => Err(e.into()),
    }
}

/// Sets an extended attribute of an open file.
///
/// # Errors
/// Those of `fsetxattr(2)`.
pub fn set_of_file(file: &File, key: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, key, value, XattrFlags::empty())?)
}

/// Names of an entry's attributes, each with a NUL at its end.
fn list_at(dir: &Dir, name: &OsStr) -> rustix::io::Result<Vec<u8>> {
    static MISSING: OnceLock<()> = OnceLock::new();
    if MISSING.get().is_none() {
        match list(|buf| listxattrat(dir.as_fd(), name, buf)) {
            // Kernels before 6.13, and sandboxes that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => MISSING.set(()).unwrap_or_default(),
            listed => return listed,
        }
    }
    list_by_path(dir, name)
}

fn list_by_path(dir: &Dir, name: &OsStr) -> rustix::io::Result<Vec<u8>> {
    let path = proc_path(dir, name).ok_or(Errno::NOENT)?;
    list(|buf| rustix::fs::llistxattr(&path, buf))
}

/// First with a small buffer on the stack: most files have no attributes at all.
fn list(list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match list(&mut small) {
        Ok(len) => Ok(small[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_MAX];
            let len = list(&mut large)?;
            large.truncate(len);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

fn read_all(names: &[u8], get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Xattrs> {
    let mut out = Xattrs::new();
    if names.is_empty() {
        return Ok(out);
    }
    let mut value = vec![0; XATTR_MAX];
    for name in names.split_inclusive(|&b| b == 0) {
        // Names that are not UTF-8 cannot be told to anybody.
        let Some(name) = CStr::from_bytes_with_nul(name).ok().filter(|n| n.to_str().is_ok()) else {
            continue;
        };
        // One that vanished or is not for us to read is not there.
        if let Ok(len) = get(name, &mut value) {
            out.insert(name.to_string_lossy().into_owned(), Bytes::copy_from_slice(&value[..len]));
        }
    }
    Ok(out)
}

/// A path through our own descriptor, for calls that take no folder: its last component is not followed by the `l…`
/// calls. `None` where there is no /proc.
fn proc_path(dir: &Dir, name: &OsStr) -> Option<Vec<u8>> {
    static HAS_PROC: OnceLock<bool> = OnceLock::new();
    if !*HAS_PROC.get_or_init(|| Path::new("/proc/self/fd").exists()) {
        return None;
    }
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    Some(path)
}

/// `listxattrat(2)`, since Linux 6.13: a way through /proc costs thrice as much.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "listxattrat(2) has no safe wrapper")]
fn listxattrat(dir: BorrowedFd<'_>, name: &OsStr, buf: &mut [u8]) -> rustix::io::Result<usize> {
    /// One number on all architectures that Rust's tier 1 and 2 have, but for MIPS.
    const SYS_LISTXATTRAT: libc::c_long = 465;
    rustix::path::Arg::into_with_c_str(name, |name| {
        // SAFETY: the descriptor is open, the name a live C string, and the kernel writes at most `buf.len()` bytes to `buf`.
        let len = unsafe {
            libc::syscall(
                SYS_LISTXATTRAT,
                dir.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                buf.as_mut_ptr(),
                buf.len(),
            )
        };
        usize::try_from(len)
            .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    })
}

#[cfg(not(target_os = "linux"))]
fn listxattrat(_: BorrowedFd<'_>, _: &OsStr, _: &mut [u8]) -> rustix::io::Result<usize> {
    Err(Errno::NOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_a_list_agree() {
        let tree = tempfile::tempdir().expect("folder");
        std::fs::write(tree.path().join("f"), "").expect("file");
        std::os::unix::fs::symlink("f", tree.path().join("l")).expect("link");
        let dir = Dir::open_host(tree.path()).expect("open");
        let name = OsStr::new;
        assert!(list_at(&dir, name("f")).expect("list").is_empty());
        // More than the small buffer holds.
        for i in 0..40 {
            set(&dir, name("f"), &format!("user.attribute-{i}"), b"x").expect("set");
        }
        for entry in ["f", "l", "missing"] {
            assert_eq!(list_at(&dir, name(entry)), list_by_path(&dir, name(entry)), "{entry}");
        }
        assert_eq!(of_entry(&dir, name("f")).expect("attributes").len(), 40);
        assert!(of_entry(&dir, name("l")).expect("attributes").is_empty());
    }
}
