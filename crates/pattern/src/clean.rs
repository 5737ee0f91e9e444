//! Lexical normal form of a path.

use std::borrow::Cow;

/// The shortest `/`-separated path that means the same without looking at a file system: no `.`, no doubled or trailing
/// `/`, `..` resolved where something stands before it. The empty path is `.`; above `/` there is only `/`.
/// This is the rule of Go's `path.Clean`, which patterns, cache keys and LLB paths are written in.
#[must_use]
pub fn clean(path: &str) -> String {
    cleaned(path).into_owned()
}

/// [`clean`] without a copy of what is clean already, but for slashes at its end.
#[must_use]
pub fn cleaned(path: &str) -> Cow<'_, str> {
    let bare = match path.trim_end_matches('/') {
        "" if !path.is_empty() => "/",
        bare => bare,
    };
    if is_clean(bare) { Cow::Borrowed(bare) } else { Cow::Owned(rebuild(path)) }
}

/// The clean form of `b` below `a`, as Go's `path.Join` of two elements: an empty one adds nothing.
#[must_use]
pub fn join(a: &str, b: &str) -> String {
    match (a, b) {
        ("", "") => String::new(),
        ("", b) => clean(b),
        (a, "" | ".") => clean(a),
        (a, b) => {
            let mut joined = [a.trim_end_matches('/'), "/", b.trim_start_matches('/')].concat();
            let length = match cleaned(&joined) {
                Cow::Borrowed(bare) => bare.len(),
                Cow::Owned(other) => return other,
            };
            joined.truncate(length);
            joined
        }
    }
}

/// Nothing to do: no element is empty, `.` or `..`.
fn is_clean(path: &str) -> bool {
    // Such an element begins with a slash or a dot: most paths have none.
    let may_be = |pair: &[u8]| pair[0] == b'/' && matches!(pair[1], b'/' | b'.');
    if !matches!(path.as_bytes(), [] | [b'.', ..]) && !path.as_bytes().windows(2).any(may_be) {
        return true;
    }
    let elements = path.strip_prefix('/').unwrap_or(path);
    matches!(path, "." | "/") || elements.split('/').all(|element| !matches!(element, "" | "." | ".."))
}

fn rebuild(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    if path.starts_with('/') {
        out.push('/');
    }
    let root = out.len();
    // What no `..` takes away: the root, or each `..` that there was nothing before.
    let mut floor = root;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if out.len() > floor => {
                let parent = out.rfind('/').unwrap_or(0);
                out.truncate(parent.max(floor));
            }
            ".." if root > 0 => {}
            name => {
                if out.len() > root {
                    out.push('/');
                }
                out.push_str(name);
                if name == ".." {
                    floor = out.len();
                }
            }
        }
    }
    if out.is_empty() {
        out.push('.');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{clean, cleaned, join};

    #[test]
    fn shortest_equivalent_path() {
        for (from, to) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("a/./b/.", "a/b"),
            ("a/../b", "b"),
            ("a/..", "."),
            ("../../a", "../../a"),
            ("../a/..", ".."),
            ("../a/b/..", "../a"),
            ("../a/../..", "../.."),
            ("/a/../../b/./c/..", "/b"),
            ("ab/cd/../../..", ".."),
            ("a/../../b", "../b"),
            ("/../a", "/a"),
            ("/..", "/"),
            ("!../a", "!../a"),
        ] {
            assert_eq!(clean(from), to, "{from:?}");
        }
    }

    #[test]
    fn clean_paths_are_not_copied() {
        use std::borrow::Cow;
        for path in [".", "/", "a", "/a/b", "a/", "/a//", "//"] {
            assert!(matches!(cleaned(path), Cow::Borrowed(_)), "{path:?}");
        }
    }

    #[test]
    fn joined() {
        for (a, b, to) in [
            ("", "", ""),
            ("", "a/", "a"),
            ("a/", "", "a"),
            ("/", "a", "/a"),
            ("/", "/", "/"),
            ("/a", "/b/../c", "/a/c"),
            ("a", "..", "."),
            (".", "/a", "a"),
            ("a//", "//b/", "a/b"),
        ] {
            assert_eq!(join(a, b), to, "{a:?} {b:?}");
        }
    }
}
