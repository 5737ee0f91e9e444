//! Lexical normal form of a path.

/// The shortest `/`-separated path that means the same without looking at a file system: no `.`, no doubled or trailing
/// `/`, `..` resolved where something stands before it. The empty path is `.`; above `/` there is only `/`.
/// This is the rule of Go's `path.Clean`, which patterns, cache keys and LLB paths are written in.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            name => parts.push(name),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::clean;

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
            ("a/../../b", "../b"),
            ("/../a", "/a"),
            ("/..", "/"),
            ("!../a", "!../a"),
        ] {
            assert_eq!(clean(from), to, "{from:?}");
        }
    }
}
