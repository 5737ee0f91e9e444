//! What a sender may say: clean paths in order, folders before what is in them, links to files that were named.

use std::collections::HashSet;

use bytes::Bytes;
use kiln_proto::fsutil::Stat;

use crate::error::{Error, Result};
use crate::meta::{Kind, go_mode};
use crate::names::{lossy, split};

/// No path that a kernel accepts is longer.
const PATH_MAX: usize = 16 * 1024;

/// Checks the STATs of one transfer.
#[derive(Debug)]
pub(crate) struct Order {
    /// The folder of the last entry and those above it, each with the last name that was in it.
    folders: Vec<(Bytes, Vec<u8>)>,
    /// What a hard link may name.
    files: HashSet<Bytes>,
}

impl Order {
    pub(crate) fn new() -> Self {
        Self { folders: vec![(Bytes::new(), Vec::new())], files: HashSet::new() }
    }

    /// Takes the next STAT, or says what is wrong with it.
    pub(crate) fn check(&mut self, stat: &Stat) -> Result<()> {
        let path = &stat.path;
        let refuse = |why: &str| Err(Error::Protocol(format!("{why}: {:?}", lossy(&clip(path)))));
        if path.len() > PATH_MAX || path.contains(&0) {
            return refuse("impossible path");
        }
        if path.starts_with(b"/") {
            return refuse("absolute path");
        }
        let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
        if !path.split(|&b| b == b'/').all(plain) {
            return refuse("unclean path");
        }
        let Some(kind) = go_mode::kind(stat.mode & !go_mode::SOCKET) else {
            return refuse("unknown kind of file");
        };
        let (dir, name) = split(path);
        let depth = self.folders.iter().rposition(|(folder, _)| *folder == dir);
        let Some(depth) = depth.filter(|&d| self.folders[d].1.as_slice() < name) else {
            return refuse("changes out of order");
        };
        self.folders.truncate(depth + 1);
        self.folders[depth].1 = name.to_vec();
        match kind {
            Kind::Dir => self.folders.push((path.clone(), Vec::new())),
            Kind::Symlink => {}
            _ if stat.linkname.is_empty() => {
                self.files.insert(path.clone());
            }
            _ if self.files.contains(&stat.linkname) => {}
            _ => return refuse(&format!("invalid link to unknown path {:?}", lossy(&clip(&stat.linkname)))),
        }
        Ok(())
    }
}

fn clip(path: &Bytes) -> Bytes {
    path.slice(..path.len().min(256))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(path: &str, mode: u32, link: &str) -> Stat {
        Stat { path: path.to_owned().into(), mode, linkname: link.to_owned().into(), ..Stat::default() }
    }

    fn first_refused(entries: &[(&str, u32, &str)]) -> Option<usize> {
        let mut order = Order::new();
        entries.iter().position(|(path, mode, link)| order.check(&stat(path, *mode, link)).is_err())
    }

    const D: u32 = go_mode::DIR;

    #[test]
    fn orders_that_walks_make() {
        let walk = [
            ("a", D, ""),
            ("a/b", D, ""),
            ("a/b/c", 0, ""),
            ("a/c", 0, ""),
            ("a.b", 0, "a/b/c"),
            ("b", 0, ""),
        ];
        assert_eq!(first_refused(&walk), None);
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in ["", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a/..", "./a", "a\0b"]
        {
            assert_eq!(first_refused(&[("a", D, ""), (bad, 0, "")]), Some(1), "{bad:?}");
        }
        assert_eq!(first_refused(&[("a", 0, ""), ("a", 0, "")]), Some(1), "twice");
        assert_eq!(first_refused(&[("b", 0, ""), ("a", 0, "")]), Some(1), "backwards");
        assert_eq!(first_refused(&[("a/b", 0, "")]), Some(0), "no parent");
        assert_eq!(first_refused(&[("a", 0, ""), ("a/b", 0, "")]), Some(1), "parent is a file");
        assert_eq!(
            first_refused(&[("a", go_mode::SYMLINK, "/"), ("a/b", 0, "")]),
            Some(1),
            "parent is a link"
        );
        assert_eq!(first_refused(&[("a", D, ""), ("b", D, ""), ("a/c", 0, "")]), Some(2), "folder left");
        assert_eq!(first_refused(&[("a", 0, "b"), ("b", 0, "")]), Some(0), "link before its file");
        assert_eq!(first_refused(&[("a", 0, "/etc/passwd")]), Some(0), "link out");
        assert_eq!(first_refused(&[("a", D, ""), ("b", 0, "a")]), Some(1), "link to a folder");
        assert_eq!(first_refused(&[("a", go_mode::IRREGULAR, "")]), Some(0), "kind");
        assert_eq!(first_refused(&[(&"x".repeat(PATH_MAX + 1), 0, "")]), Some(0), "length");
    }
}
