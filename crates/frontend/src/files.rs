//! Looking into trees: what the gateway's calls answer of files.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    path::{Component, Path},
};

use bytes::Bytes;
use kiln_fstree::{Kind, Metadata, Root, walk::to_stat};
use kiln_proto::{fsutil::Stat, status::WireError};
use tonic::Code;

use crate::errors::wire_error;

/// The largest file that one call reads, in bytes: it must fit into a message.
const MAX_READ: u64 = 15 << 20;

/// An error of the tree as a client knows it: what is missing is "not found".
pub(crate) fn file_error(action: &str, path: &str, error: &kiln_fstree::Error) -> WireError {
    if error.is_not_found() {
        return WireError::new(Code::NotFound, format!("{action} {path}: no such file or directory"));
    }
    wire_error(format_args!("{action} {path}: {error}"))
}

/// An error for any path in the empty tree.
pub(crate) fn nothing(action: &str, path: &str) -> WireError {
    WireError::new(Code::NotFound, format!("{action} {path}: no such file or directory"))
}

/// Whether a path of a tree names the tree itself.
pub(crate) fn is_root(path: &str) -> bool {
    path.split('/').all(|part| part.is_empty() || part == ".")
}

/// Part of a file; `length` 0 means all that follows.
///
/// # Errors
/// `NotFound` when it is not there; `ResourceExhausted` for more than fits into a message; what reading fails with.
pub fn read(root: &Root, path: &str, offset: u64, length: u64) -> Result<Bytes, WireError> {
    let failed = |error: std::io::Error| wire_error(format_args!("read {path}: {error}"));
    let mut file = root.open_file(path).map_err(|e| file_error("open", path, &e))?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let limit = if length == 0 { MAX_READ + 1 } else { length.min(MAX_READ + 1) };
    let mut data = Vec::new();
    file.take(limit).read_to_end(&mut data).map_err(failed)?;
    if data.len() as u64 > MAX_READ {
        let message = format!("read {path}: more than {MAX_READ} bytes; read it in ranges");
        return Err(WireError::new(Code::ResourceExhausted, message));
    }
    Ok(data.into())
}

/// The entries of a folder, by name; only those that match `pattern` unless it is empty.
///
/// # Errors
/// `NotFound` when it is not there; what reading fails with; a bad pattern.
pub fn list(root: &Root, path: &str, pattern: &str) -> Result<Vec<Stat>, WireError> {
    let entries = root.list(path).map_err(|e| file_error("open", path, &e))?;
    let mut stats = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.to_string_lossy().into_owned();
        if !pattern.is_empty() && !kiln_pattern::glob_match(pattern, &name).map_err(wire_error)? {
            continue;
        }
        let inside = Path::new(path).join(&entry.name);
        let metadata = root.stat(&inside).map_err(|e| file_error("lstat", &inside.to_string_lossy(), &e))?;
        stats.push(stat_of(root, &inside, &name, &metadata)?);
    }
    stats.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(stats)
}

/// One entry, links not followed.
///
/// # Errors
/// `NotFound` when it is not there; what looking at it fails with.
pub fn stat(root: &Root, path: &str) -> Result<Stat, WireError> {
    let metadata = root.stat(path).map_err(|e| file_error("lstat", path, &e))?;
    let name = Path::new(path).file_name().map_or_else(|| "/".into(), |n| n.to_string_lossy().into_owned());
    stat_of(root, Path::new(path), &name, &metadata)
}

/// One entry of a tree that is mounted somewhere. A relative link at the end of the path is followed. Any other is answered as
/// it is, since where it leads depends on what is mounted around the tree.
///
/// # Errors
/// As [`stat`].
pub fn stat_mounted(root: &Root, path: &str) -> Result<Stat, WireError> {
    let link = stat(root, path)?;
    let parent = Path::new(path).parent().unwrap_or(Path::new(""));
    let target = std::str::from_utf8(&link.linkname).unwrap_or("/");
    if link.linkname.is_empty() || leaves(parent, Path::new(target)) {
        return Ok(link);
    }
    let metadata = root.stat_follow(path).map_err(|e| file_error("stat", path, &e))?;
    Ok(Stat { linkname: Bytes::new(), ..to_stat(link.path, &metadata) })
}

/// Whether a link in the folder leads out of the tree by its text.
fn leaves(folder: &Path, target: &Path) -> bool {
    let mut depth = folder.components().filter(|c| matches!(c, Component::Normal(_))).count();
    target.components().any(|component| {
        match component {
            Component::RootDir | Component::Prefix(_) => return true,
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return true,
            },
        }
        false
    })
}

fn stat_of(root: &Root, path: &Path, name: &str, metadata: &Metadata) -> Result<Stat, WireError> {
    let linkname = if metadata.kind == Kind::Symlink {
        root.read_link(path).map_err(|e| file_error("readlink", &path.to_string_lossy(), &e))?
    } else {
        Path::new("").to_owned()
    };
    let linkname = linkname.to_string_lossy().into_owned();
    Ok(Stat { linkname: Bytes::from(linkname), ..to_stat(Bytes::from(name.to_owned()), metadata) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_leave_the_tree_are_told() {
        for (folder, target, out) in [
            ("/a", "b", false),
            ("/a", "../b", false),
            ("/a", "../../b", true),
            ("/", "..", true),
            ("/a/b", "../../c/../../d", true),
            ("/", "/etc", true),
        ] {
            assert_eq!(leaves(Path::new(folder), Path::new(target)), out, "{folder} {target}");
        }
    }
}
