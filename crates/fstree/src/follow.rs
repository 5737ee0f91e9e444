//! Paths that a client names, and where their symbolic links lead: what a context must hold for them to work.

use std::collections::BTreeSet;
use std::path::Path;

use kiln_pattern::{Glob, clean, has_wildcard};

use crate::Root;
use crate::error::Result;
use crate::names::{lossy, name_bytes, path_bytes};

/// No set of links that makes sense needs more steps; one made for the purpose could need them without end.
const STEPS_MAX: usize = 100_000;

/// The paths, each cut where a link stands in it, and all that the links lead to. `None` if that is everything.
///
/// # Errors
/// If a folder or link cannot be read.
pub(crate) fn follow_paths(root: &Root, paths: &[String]) -> Result<Option<Vec<String>>> {
    if paths.is_empty() {
        return Ok(None);
    }
    let mut follower = Follower { root, found: BTreeSet::new(), steps: 0 };
    for path in paths {
        follower.add(path)?;
    }
    Ok(without_nested(follower.found.into_iter().collect()))
}

/// Drops what lies below the entry before it. `None` if one is the root, which leaves nothing to filter.
pub(crate) fn without_nested(paths: Vec<String>) -> Option<Vec<String>> {
    let mut out: Vec<String> = Vec::with_capacity(paths.len());
    for path in paths {
        if path == "." {
            return None;
        }
        let nested = out
            .last()
            .is_some_and(|last| path.strip_prefix(last.as_str()).is_some_and(|p| p.starts_with('/')));
        if !nested {
            out.push(path);
        }
    }
    Some(out)
}

struct Follower<'a> {
    root: &'a Root,
    found: BTreeSet<String>,
    steps: usize,
}

impl Follower<'_> {
    fn add(&mut self, path: &str) -> Result<()> {
        let mut todo = vec![path.to_owned()];
        while let Some(path) = todo.pop() {
            let path = clean(&format!("/{path}"));
            let path = path.trim_start_matches('/');
            if path.is_empty() {
                self.found.insert(".".to_owned());
                continue;
            }
            let mut end = 0;
            loop {
                self.steps += 1;
                if self.steps > STEPS_MAX {
                    return Err(crate::Error::Refused(format!("{path}: too many symbolic links to follow")));
                }
                end = path[end..].find('/').map_or(path.len(), |i| end + i);
                let (here, rest) = (&path[..end], &path[end..]);
                let targets = self.targets(here)?;
                if !targets.is_empty() {
                    if self.found.insert(here.to_owned()) {
                        todo.extend(targets.into_iter().rev().map(|t| t + rest));
                    }
                    break;
                }
                if rest.is_empty() {
                    self.found.insert(here.to_owned());
                    break;
                }
                end += 1;
            }
        }
        Ok(())
    }

    /// Where the link at `path` leads, or those that its last component matches. Absolute paths inside the root.
    fn targets(&self, path: &str) -> Result<Vec<String>> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut names = Vec::new();
        if has_wildcard(name) {
            let Ok(glob) = Glob::new(name) else { return Ok(names) };
            let entries = match self.root.list(dir) {
                Err(e) if e.is_not_found() => return Ok(names),
                entries => entries?,
            };
            let matching =
                entries.iter().map(|e| lossy(&name_bytes(&e.name)).into_owned()).filter(|n| glob.matches(n));
            names.extend(matching);
        } else {
            names.push(name.to_owned());
        }
        let mut out = Vec::new();
        for name in names {
            let path = Path::new(dir).join(&name);
            match self.root.stat(&path) {
                Ok(meta) if meta.is_symlink() => {
                    let target = lossy(&path_bytes(&self.root.read_link(&path)?)).into_owned();
                    out.push(if target.starts_with('/') { target } else { format!("/{dir}/{target}") });
                }
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_wherever_they_stand() {
        let tmp = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| tmp.path().join(name);
        for dir in ["dir", "other/deep"] {
            std::fs::create_dir_all(at(dir)).expect("mkdir");
        }
        std::fs::write(at("dir/file"), "").expect("write");
        symlink("dir", at("l1")).expect("symlink");
        symlink("/l1/file", at("l2")).expect("symlink");
        symlink("../../../../l2", at("other/deep/l3")).expect("symlink");
        symlink("loop2", at("loop1")).expect("symlink");
        symlink("loop1", at("loop2")).expect("symlink");
        symlink("/", at("all")).expect("symlink");
        let root = Root::open(tmp.path()).expect("open");
        let follow = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
            follow_paths(&root, &paths).expect("follow")
        };
        let some = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(follow(&["l1/file"]), some(&["dir/file", "l1"]));
        assert_eq!(follow(&["l2"]), some(&["dir/file", "l1", "l2"]));
        assert_eq!(follow(&["other/deep/l3"]), some(&["dir/file", "l1", "l2", "other/deep/l3"]));
        assert_eq!(follow(&["loop1"]), some(&["loop1", "loop2"]));
        assert_eq!(follow(&["/../missing/x"]), some(&["missing/x"]));
        assert_eq!(follow(&["l?"]), some(&["dir", "l1", "l?"]));
        assert_eq!(follow(&["all"]), None);
        assert_eq!(follow(&["."]), None);
        assert_eq!(follow(&[]), None);
        assert_eq!(follow(&["dir", "dir/file", "dirx"]), some(&["dir", "dirx"]));
    }
}
