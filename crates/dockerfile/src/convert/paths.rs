//! Paths inside an image, by the rules of its operating system.
//!
//! Windows images may be given `\` or `/`, and drive C: or none; inside LLB every path has `/` and no drive.

use std::borrow::Cow;

use kiln_pattern::clean;

pub(super) use kiln_pattern::join;

/// `\` becomes `/` in paths of Windows.
pub(super) fn to_slash(path: &str, windows: bool) -> Cow<'_, str> {
    if windows { path.replace('\\', "/").into() } else { path.into() }
}

fn from_slash(path: String, windows: bool) -> String {
    if windows { path.replace('/', "\\") } else { path }
}

/// Takes the drive from a Windows path; other paths stay as they are. `keep_slash`: one at the end says "a folder".
///
/// Another drive than C:, a drive alone and UNC paths are errors.
pub(super) fn strip_drive(path: &str, windows: bool, keep_slash: bool) -> Result<Cow<'_, str>, String> {
    if !windows {
        return Ok(path.into());
    }
    let slashed = to_slash(path, true);
    if path.len() == 2 && path.ends_with(':') {
        return Err(format!("no relative path specified in {path:?}"));
    }
    if slashed.starts_with("//") {
        return Err("UNC paths are not supported".into());
    }
    let rest = match slashed.split_once(':') {
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => return Err(format!("the specified path is not on the system drive (C:): {path:?}")),
        None => &slashed,
    };
    let cleaned = clean(rest);
    let slash = if keep_slash && cleaned.len() > 1 && rest.ends_with('/') { "/" } else { "" };
    Ok((cleaned + slash).into())
}

/// Does the path begin at the root of the image?
pub(super) fn is_absolute(path: &str, windows: bool) -> bool {
    strip_drive(path, windows, false).is_ok_and(|p| p.starts_with('/'))
}

/// Makes `path` absolute below `parent`, with slashes and without drive. `keep_slash` keeps what says "a folder" at the
/// end: a slash, or `/.`.
pub(super) fn normalize<'p>(
    parent: &str,
    path: &'p str,
    windows: bool,
    keep_slash: bool,
) -> Result<Cow<'p, str>, String> {
    if !windows && path.starts_with('/') && !(keep_slash && path.ends_with("/.")) {
        // Nothing to do.
        return Ok(path.into());
    }
    let original = to_slash(path, windows);
    let parent = to_slash(if parent.is_empty() { "/" } else { parent }, windows);
    let mut parent = strip_drive(&parent, windows, keep_slash)?;
    if !is_absolute(&parent, windows) {
        parent = join("/", &parent).into();
    }
    let path = if original.is_empty() { &parent } else { &original };
    let path = strip_drive(path, windows, keep_slash)?;
    let mut path = if is_absolute(&path, windows) { path.into_owned() } else { join(&parent, &path) };
    if keep_slash {
        if original.ends_with('/') && !path.ends_with('/') {
            path.push('/');
        } else if original.ends_with("/.") {
            if path != "/" {
                path.push('/');
            }
            path.push('.');
        }
    }
    Ok(path.into())
}

/// The working directory after `WORKDIR path`, in the spelling of the image's system.
pub(super) fn workdir(current: &str, path: &str, windows: bool) -> Result<String, String> {
    Ok(from_slash(normalize(current, path, windows, false)?.into_owned(), windows))
}

/// A destination of COPY: absolute below the working directory `dir`.
pub(super) fn in_workdir<'p>(dir: &str, path: &'p str, windows: bool) -> Result<Cow<'p, str>, String> {
    if !windows && path.starts_with('/') {
        return normalize("/", path, windows, true);
    }
    let path = strip_drive(path, windows, true)?;
    if is_absolute(&path, windows) {
        return normalize("/", &path, windows, true).map(|path| path.into_owned().into());
    }
    // The working directory itself is a folder, whatever is there.
    let path = if path.is_empty() || path == "." { "./" } else { &path };
    normalize(dir, path, windows, true).map(|path| path.into_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives() {
        for (path, want) in [
            ("C:\\a\\..\\b", "/b"),
            ("c:/a/", "/a"),
            ("c:a", "a"),
            ("\\a\\b", "/a/b"),
            ("a", "a"),
            ("", "."),
            ("C:\\", "/"),
        ] {
            assert_eq!(strip_drive(path, true, false).unwrap(), want, "{path}");
        }
        assert_eq!(strip_drive("C:\\a\\", true, true).unwrap(), "/a/");
        for bad in ["C:", "d:\\a", "\\\\server\\share", "//x", "\\\\.\\C:\\a", "ab:c"] {
            assert!(strip_drive(bad, true, false).is_err(), "{bad}");
        }
        assert_eq!(strip_drive("d:\\a", false, false).unwrap(), "d:\\a");
    }

    #[test]
    fn working_directories() {
        for (current, path, windows, want) in [
            ("", "app", false, "/app"),
            ("/a", "b/../c", false, "/a/c"),
            // Only what is joined is cleaned.
            ("/a", "/b/", false, "/b/"),
            ("/", "C:\\app\\x", true, "\\app\\x"),
            ("\\app", "y", true, "\\app\\y"),
            ("\\app", "/z", true, "\\z"),
            ("", "", false, "/"),
        ] {
            assert_eq!(workdir(current, path, windows).unwrap(), want, "{current} {path}");
        }
        assert!(workdir("/", "D:\\x", true).is_err());
    }

    #[test]
    fn destinations() {
        for (dir, path, windows, want) in [
            ("/w", ".", false, "/w/"),
            ("/w", "./", false, "/w/"),
            ("/w", "", false, "/w/"),
            ("/w", "a/", false, "/w/a/"),
            // The builder of the op cleans this once more.
            ("/w", "/a/.", false, "/a/./."),
            ("/", "/", false, "/"),
            ("/app", "C:\\x\\", true, "/x/"),
            ("/app", "y\\z", true, "/app/y/z"),
        ] {
            assert_eq!(in_workdir(dir, path, windows).unwrap(), want, "{dir} {path}");
        }
    }
}
