//! Image references in Docker's grammar: `[domain/]path[:tag][@digest]`.
//!
//! Short names are completed on parsing, as every Docker tool does: `busybox` is
//! `docker.io/library/busybox`. The grammar is that of the distribution project.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, DigestError};

/// The tag that is meant when neither tag nor digest is given.
pub const DEFAULT_TAG: &str = "latest";

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A string is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format: {0:?}")]
    Format(String),
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    UpperCase(String),
    /// It looks like an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// More than 255 characters.
    #[error("invalid reference format: repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// The part after the `@` is not a digest.
    #[error("invalid reference format: {0}")]
    Digest(#[from] DigestError),
}

/// A complete reference: domain and path are always there, tag and digest may be.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses a reference and completes a short name. No default tag is added, see
    /// [`Reference::with_default_tag`].
    ///
    /// # Errors
    /// When `s` does not follow the grammar.
    pub fn parse(s: &str) -> Result<Self, ReferenceError> {
        if s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier(s.to_owned()));
        }
        let fail = || ReferenceError::Format(s.chars().take(300).collect());
        let (domain, rest) = split_domain(s);
        let name_end = rest.find(':').unwrap_or(rest.len());
        if rest[..name_end].chars().any(char::is_uppercase) {
            return Err(ReferenceError::UpperCase(rest[..name_end].chars().take(300).collect()));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !valid_domain(domain) || !path.split('/').all(valid_component) || !tag.is_none_or(valid_tag) {
            return Err(fail());
        }
        let path = match domain == DEFAULT_DOMAIN && !path.contains('/') {
            true => format!("{OFFICIAL}{path}"),
            false => path.to_owned(),
        };
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// The registry, `docker.io` for Docker Hub.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if any.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if any.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Adds `latest` when there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Replaces the tag and keeps the digest.
    ///
    /// # Errors
    /// When `tag` is not a tag.
    pub fn with_tag(mut self, tag: &str) -> Result<Self, ReferenceError> {
        if !valid_tag(tag) {
            return Err(ReferenceError::Format(tag.chars().take(300).collect()));
        }
        self.tag = Some(tag.to_owned());
        Ok(self)
    }

    /// Replaces the digest and keeps the tag.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Without the digest.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        self.digest = None;
        self
    }

    /// Without the tag.
    #[must_use]
    pub fn without_tag(mut self) -> Self {
        self.tag = None;
        self
    }

    /// The short form that people write: `busybox` for `docker.io/library/busybox`; tag and digest stay.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        if self.domain != DEFAULT_DOMAIN {
            return full;
        }
        let rest = &full[DEFAULT_DOMAIN.len() + 1..];
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => rest[OFFICIAL.len()..].to_owned(),
            _ => rest.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = self.tag.iter().flat_map(|tag| [":", tag]);
        let digest = self.digest.iter().flat_map(|digest| ["@", digest.as_str()]);
        let mut parts = [self.domain.as_str(), "/", &self.path].into_iter().chain(tag).chain(digest);
        parts.try_for_each(|part| f.write_str(part))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(s: &str) -> Result<Self, ReferenceError> {
        Self::parse(s)
    }
}

/// The first part is a registry if it could not be a folder of Docker Hub: it has a dot, a colon or an
/// upper-case letter, or is `localhost`.
fn split_domain(s: &str) -> (&str, &str) {
    match s.split_once('/') {
        Some(("index.docker.io", rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, s),
    }
}

fn valid_domain(s: &str) -> bool {
    let (host, port) = match s.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((addr, rest)) => {
                let ok = !addr.is_empty() && addr.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                return ok && (rest.is_empty() || rest.strip_prefix(':').is_some_and(valid_port));
            }
            None => return false,
        },
        None => match s.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (s, None),
        },
    };
    port.is_none_or(valid_port)
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

fn valid_port(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

/// Lower-case letters and digits, separated by one dot, one or two underscores, or any number of dashes.
fn valid_component(s: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    word(first)
        && word(last)
        && bytes
            .split(|&b| word(b))
            .all(|sep| matches!(sep, b"" | b"." | b"_" | b"__") || sep.iter().all(|&b| b == b'-'))
}

fn valid_tag(s: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    s.len() <= MAX_TAG
        && s.bytes().next().is_some_and(word)
        && s.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn completes_and_shortens() {
        for (given, full, short) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("me/app", "docker.io/me/app", "me/app"),
            ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/x", "localhost/x", "localhost/x"),
            ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
            ("UPPER/x", "UPPER/x", "UPPER/x"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
            ("quay.io/a__b/c--d_e.f", "quay.io/a__b/c--d_e.f", "quay.io/a__b/c--d_e.f"),
        ] {
            let r = Reference::parse(given).unwrap();
            assert_eq!(r.to_string(), full);
            assert_eq!(r.familiar(), short);
        }
        let r = Reference::parse(&format!("busybox:1@{D}")).unwrap();
        assert_eq!((r.tag(), r.digest().unwrap().as_str()), (Some("1"), D));
        assert_eq!(r.with_default_tag().to_string(), format!("docker.io/library/busybox:1@{D}"));
        assert_eq!(Reference::parse("a").unwrap().with_default_tag().tag(), Some("latest"));
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            " ",
            "a b",
            "a/",
            "/a",
            "a//b",
            ":tag",
            "a:",
            "a@",
            "Busybox",
            "a/B",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:-x",
            "a@sha256:12",
            "a.b-/c",
            "a:b/c:d:e",
            "http://x/y",
            "[::1/x",
            "[]/x",
            "x.y:port/z",
            "é",
            "a:é",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(Reference::parse(&"a".repeat(64)), Err(ReferenceError::Identifier(_))));
        assert!(matches!(Reference::parse(&"z".repeat(300)), Err(ReferenceError::TooLong)));
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }
}
