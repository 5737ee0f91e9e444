//! How LLB spells paths, and what a wildcard in one stands for.

use std::path::{Path, PathBuf};

use kiln_pattern::{Glob, clean, split_wildcard};

use crate::error::{Error, Result};
use crate::names::{lossy, os_path};
use crate::root::inside;
use crate::walk::Walk;
use crate::{Context as _, Root};

/// A path in an operation: absolute and clean, but a `/` or `/.` at its end is kept, since it means something.
pub(super) fn tidy(path: &str) -> String {
    let mut out = clean(&format!("/{path}"));
    if path.ends_with("/.") {
        if out != "/" {
            out.push('/');
        }
        out.push('.');
    } else if path.ends_with('/') && out != "/" {
        out.push('/');
    }
    out
}

/// The folder that must exist for something to be written to a tidy path: all of it if it ends in `/` or `/.`,
/// otherwise what is before the last component.
pub(super) fn folder_of(tidy: &str) -> &str {
    match tidy.rsplit_once('/') {
        Some((dir, name)) if !name.is_empty() && name != "." => dir,
        _ => tidy,
    }
}

/// A path without links but the last component, which is followed only if asked for. Relative to the root.
pub(super) fn locate(root: &Root, path: &Path, follow: bool) -> Result<PathBuf> {
    if follow {
        return root.resolve(path);
    }
    let path = inside(path);
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => Ok(root.resolve(dir)?.join(name)),
        _ => Ok(PathBuf::new()),
    }
}

/// For messages: as it is seen from inside the tree.
pub(super) fn shown(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// What a path with wildcards stands for, in the order of a walk; of what lies in a folder that matches, nothing.
/// A path without wildcards stands for itself, whether it is there or not. Results are relative to the root.
pub(super) fn expand(root: &Root, path: &str, follow: bool) -> Result<Vec<PathBuf>> {
    let path = clean(&format!("/{path}"));
    let (plain, wild) = split_wildcard(&path);
    if wild.is_empty() {
        return Ok(vec![inside(Path::new(&path))]);
    }
    // As with the reference: a malformed pattern matches nothing.
    let Ok(glob) = Glob::new(wild) else { return Ok(Vec::new()) };
    let base = locate(root, Path::new(plain), follow)?;
    let below = if base.as_os_str().is_empty() {
        root.try_clone()?
    } else {
        if !root.stat(&base).map_err(|e| show(e, &base))?.is_dir() {
            return Ok(Vec::new());
        }
        root.subtree(&base)?
    };
    let components = |path: &[u8]| path.iter().filter(|&&b| b == b'/').count();
    // A class can match a `/`.
    let deepest = if wild.contains('[') { usize::MAX } else { components(wild.as_bytes()) };
    let mut found = Vec::new();
    let mut walk = Walk::new(&below)?;
    while let Some(entry) = walk.next() {
        let entry = entry?;
        if glob.matches(&lossy(&entry.path)) {
            found.push(base.join(os_path(&entry.path).at("lstat", &base)?));
            walk.skip_folder();
        } else if components(&entry.path) >= deepest {
            walk.skip_folder();
        }
    }
    Ok(found)
}

/// An error about `path`, as it is seen from inside the tree.
pub(super) fn show(error: Error, path: &Path) -> Error {
    match error {
        Error::Io { op, source, .. } => Error::Io { op, path: shown(path), source },
        other => other,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn tidy_keeps_what_the_end_says() {
        for (from, to) in [
            ("", "/"),
            ("/", "/"),
            (".", "/"),
            ("/.", "/."),
            ("a", "/a"),
            ("a/", "/a/"),
            ("a/.", "/a/."),
            ("../a//b/", "/a/b/"),
            ("a/..", "/"),
        ] {
            assert_eq!(tidy(from), to, "{from:?}");
        }
        for (tidy, folder) in [("/a", ""), ("/a/b", "/a"), ("/a/b/", "/a/b/"), ("/a/.", "/a/."), ("/", "/")] {
            assert_eq!(folder_of(tidy), folder);
        }
    }

    #[test]
    fn wildcards_stand_for_what_is_there() {
        let tmp = tempfile::tempdir().expect("temporary folder");
        for dir in ["a/x", "ab", "d/a"] {
            std::fs::create_dir_all(tmp.path().join(dir)).expect("mkdir");
        }
        for file in ["a/1.go", "ab/2.go", "3.go", "a[1]"] {
            std::fs::write(tmp.path().join(file), "").expect("write");
        }
        std::os::unix::fs::symlink("a", tmp.path().join("link")).expect("symlink");
        let root = Root::open(tmp.path()).expect("open");
        let text = |found: Vec<PathBuf>| -> Vec<String> {
            found.into_iter().map(|p| p.to_string_lossy().into_owned()).collect()
        };
        let expand = |path: &str| text(expand(&root, path, false).expect(path));
        assert_eq!(expand("a*"), ["a", "a[1]", "ab"]);
        assert_eq!(expand("*/*.go"), ["a/1.go", "ab/2.go"]);
        assert_eq!(expand("/a/*"), ["a/1.go", "a/x"]);
        assert_eq!(expand("a\\[1\\]"), ["a\\[1\\]"]);
        assert_eq!(expand("missing"), ["missing"]);
        assert_eq!(expand("x*"), Vec::<String>::new());
        assert_eq!(expand("link/*"), Vec::<String>::new());
        assert_eq!(text(super::expand(&root, "link/*", true).expect("expand")), ["a/1.go", "a/x"]);
        let missing = super::expand(&root, "nodir/*", false).expect_err("missing");
        assert_eq!(missing.to_string(), "lstat /nodir: no such file or directory");
    }
}
