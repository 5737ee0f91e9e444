//! Paths as the protocols spell them: bytes, `/` between components, relative, clean.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

/// The bytes of a file name as a protocol carries them.
pub(crate) fn name_bytes(name: &OsStr) -> Cow<'_, [u8]> {
    #[cfg(unix)]
    {
        Cow::Borrowed(std::os::unix::ffi::OsStrExt::as_bytes(name))
    }
    #[cfg(windows)]
    {
        Cow::Owned(name.to_string_lossy().into_owned().into_bytes())
    }
}

/// A path, or target of a link, as a protocol carries it: with `/`.
pub(crate) fn path_bytes(path: &Path) -> Vec<u8> {
    let bytes = name_bytes(path.as_os_str()).into_owned();
    if cfg!(windows) { bytes.into_iter().map(|b| if b == b'\\' { b'/' } else { b }).collect() } else { bytes }
}

/// The name of a file on this system.
///
/// # Errors
/// If the system cannot have a file of that name.
pub(crate) fn os_name(bytes: &[u8]) -> io::Result<OsString> {
    #[cfg(unix)]
    {
        let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
        Ok(name.to_owned())
    }
    #[cfg(windows)]
    {
        let name = std::str::from_utf8(bytes).ok().filter(|n| !n.contains(['\\', ':']));
        name.map(OsString::from).ok_or_else(|| {
            let name = String::from_utf8_lossy(bytes);
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} cannot be a file name on Windows"))
        })
    }
}

/// A path on this system.
///
/// # Errors
/// If the system cannot have such a path.
pub(crate) fn os_path(bytes: &[u8]) -> io::Result<PathBuf> {
    #[cfg(unix)]
    {
        Ok(PathBuf::from(os_name(bytes)?))
    }
    #[cfg(windows)]
    {
        let absolute = bytes.starts_with(b"/");
        let parts = bytes.split(|&b| b == b'/').filter(|p| !p.is_empty()).map(os_name);
        let path: PathBuf = parts.collect::<io::Result<_>>()?;
        Ok(if absolute { Path::new("\\").join(path) } else { path })
    }
}

/// The folder and the last component of a clean, relative path. The folder is empty at the top.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (&[], path),
    }
}

/// The order in which trees are walked: folder before content, names by bytes. `a/b` comes before `a.b`.
pub(crate) fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let key = |b: &u8| if *b == b'/' { 0 } else { u16::from(*b) + 1 };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Whether `path` is `dir` or lies below it.
pub(crate) fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.starts_with(dir) && matches!(path.get(dir.len()), None | Some(b'/')))
}

/// For messages and patterns.
pub(crate) fn lossy(path: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_order() {
        let mut paths = ["a.b", "a/b", "a", "a/b/c", "a/b.c", "b", "a-", "a/"].map(str::as_bytes);
        paths.sort_by(|a, b| compare(a, b));
        assert_eq!(paths, ["a", "a/", "a/b", "a/b/c", "a/b.c", "a-", "a.b", "b"].map(str::as_bytes));
    }

    #[test]
    fn parts_of_paths() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
        assert!(is_within(b"a/b", b"a") && is_within(b"a", b"a") && is_within(b"x", b""));
        assert!(!is_within(b"ab", b"a"));
    }
}
