//! `.dockerignore`: which files of a context a build leaves out.

use kiln_pattern::{Matcher, read_ignore_file};

use crate::error::{Error, ErrorKind};

/// Name of the ignore file at the root of a context.
pub const IGNORE_FILE: &str = ".dockerignore";

/// The ignore files to look for, best first, of a Dockerfile by its path: `sub/Dockerfile.dockerignore` beside it,
/// then the one of the context.
#[must_use]
pub fn candidates(dockerfile: &str) -> [String; 2] {
    [format!("{dockerfile}{IGNORE_FILE}"), IGNORE_FILE.to_owned()]
}

/// The patterns of an ignore file, in order, and a matcher of them.
///
/// # Errors
/// A pattern that is malformed, with the file's name.
pub fn read(name: &str, text: &str) -> Result<(Vec<String>, Matcher), Error> {
    let patterns = read_ignore_file(text);
    let matcher = Matcher::new(&patterns).map_err(|error| {
        Error::new(ErrorKind::Argument, format!("failed to read ignore file {name}: {error}"))
    })?;
    Ok((patterns, matcher))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_has_an_ignore_file_of_its_own() {
        assert_eq!(candidates("a/Dockerfile"), ["a/Dockerfile.dockerignore", ".dockerignore"]);
    }

    #[test]
    fn reads_patterns() {
        let (patterns, matcher) = read(IGNORE_FILE, "# note\n/a\n!a/b\n\n").unwrap();
        assert_eq!(patterns, ["a", "!a/b"]);
        assert!(matcher.matches("a/c") && !matcher.matches("a/b"));
        assert!(read(IGNORE_FILE, "[").unwrap_err().to_string().contains(IGNORE_FILE));
    }
}
