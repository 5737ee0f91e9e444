//! URLs of git repositories: `https://host/path?query#ref:folder` and `user@host:path`.

/// A string is not the URL of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitUrlError {
    /// It has a scheme that git is not used with.
    #[error("invalid protocol {0:?}: want http, https, ssh or git")]
    Protocol(String),
    /// It has no scheme and is not of the form `user@host:path`.
    #[error("unknown protocol")]
    NoProtocol,
    /// It has characters that no URL has, or no host.
    #[error("invalid git URL {0:?}")]
    Malformed(String),
}

/// A repository, with what to take of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl {
    /// `http`, `https`, `ssh` or `git`.
    pub scheme: String,
    /// Name (and password) before the `@`.
    pub user: Option<String>,
    /// Host and port.
    pub host: String,
    /// Path on the host.
    pub path: String,
    /// Query pairs in order, decoded.
    pub query: Vec<(String, String)>,
    /// Branch, tag or commit of the fragment.
    pub reference: String,
    /// Folder of the fragment, without slashes at the ends.
    pub subdir: String,
    /// Was there a fragment at all?
    pub has_fragment: bool,
    /// What git is given: the URL without query and fragment.
    pub remote: String,
}

const PROTOCOLS: &[&str] = &["http", "https", "ssh", "git"];

impl GitUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// See [`GitUrlError`]. [`GitUrlError::NoProtocol`] for something like `github.com/a/b`, which callers may
    /// try again with `https://` in front.
    pub fn parse(s: &str) -> Result<Self, GitUrlError> {
        match scheme(s) {
            Some(scheme) if PROTOCOLS.contains(&scheme.to_ascii_lowercase().as_str()) => {
                Self::standard(s, scheme)
            }
            Some(scheme) => Err(GitUrlError::Protocol(scheme.chars().take(50).collect())),
            None => Self::scp(s).ok_or(GitUrlError::NoProtocol),
        }
    }

    fn standard(s: &str, scheme: &str) -> Result<Self, GitUrlError> {
        let fail = || GitUrlError::Malformed(s.chars().take(200).collect());
        if s.bytes().any(|b| b.is_ascii_control() || b == b' ') {
            return Err(fail());
        }
        let (base, fragment) = split(s, '#');
        let (remote, query) = split(base, '?');
        let rest = &remote[scheme.len() + 3..];
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        let lower = scheme.to_ascii_lowercase();
        let remote = format!("{lower}{}", &remote[scheme.len()..]);
        let path = percent_decode(path).ok_or_else(fail)?;
        Ok(Self::new(lower, user, host.to_owned(), path, query, fragment, remote))
    }

    /// `user@host:path[?query][#fragment]`
    fn scp(s: &str) -> Option<Self> {
        let (user, rest) = s.split_once('@')?;
        let (host, rest) = rest.split_once(':')?;
        if !word(user, "-_") || !word(host, "-.") || s.contains('\n') {
            return None;
        }
        let (base, fragment) = split(rest, '#');
        let (path, query) = split(base, '?');
        let remote = format!("{user}@{host}:{path}");
        Some(Self::new("ssh".into(), Some(user.into()), host.into(), path.into(), query, fragment, remote))
    }

    fn new(
        scheme: String,
        user: Option<String>,
        host: String,
        path: String,
        query: Option<&str>,
        fragment: Option<&str>,
        remote: String,
    ) -> Self {
        let decoded = fragment.map(|f| percent_decode(f).unwrap_or_else(|| f.to_owned())).unwrap_or_default();
        let (reference, subdir) = decoded.split_once(':').unwrap_or((decoded.as_str(), ""));
        let subdir = clean_subdir(subdir);
        let query = query.unwrap_or_default().split('&').filter(|p| !p.is_empty()).map(pair).collect();
        Self {
            scheme,
            user,
            host,
            path,
            query,
            reference: reference.to_owned(),
            subdir,
            has_fragment: !decoded.is_empty(),
            remote,
        }
    }
}

/// Is `s` something that git can fetch from, by its form?
pub fn is_git_transport(s: &str) -> bool {
    match scheme(s) {
        Some(scheme) => PROTOCOLS.contains(&scheme.to_ascii_lowercase().as_str()),
        None => GitUrl::scp(s).is_some(),
    }
}

/// Is `s` the full name of a commit, SHA-1 or SHA-256?
pub fn is_commit_sha(s: &str) -> bool {
    matches!(s.len(), 40 | 64) && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn scheme(s: &str) -> Option<&str> {
    let (scheme, _) = s.split_once("://")?;
    (!scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(scheme)
}

fn word(s: &str, extra: &str) -> bool {
    !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

fn split(s: &str, at: char) -> (&str, Option<&str>) {
    s.split_once(at).map_or((s, None), |(a, b)| (a, Some(b)))
}

fn pair(s: &str) -> (String, String) {
    let (key, value) = s.split_once('=').unwrap_or((s, ""));
    let decode = |s: &str| percent_decode(&s.replace('+', " ")).unwrap_or_else(|| s.to_owned());
    (decode(key), decode(value))
}

/// A path within the repository: `.` and `..` resolved, no slashes at the ends.
pub(crate) fn clean_subdir(s: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in s.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn percent_decode(s: &str) -> Option<String> {
    if !s.contains('%') {
        return Some(s.to_owned());
    }
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let hi = char::from(bytes.next()?).to_digit(16)?;
        let lo = char::from(bytes.next()?).to_digit(16)?;
        out.push((hi * 16 + lo) as u8);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_and_scp() {
        let u = GitUrl::parse("https://me:pw@host.xz:8080/a/b.git?tag=v1&x=%20#main:/sub/../dir/").unwrap();
        assert_eq!(
            (u.scheme.as_str(), u.host.as_str(), u.path.as_str()),
            ("https", "host.xz:8080", "/a/b.git")
        );
        assert_eq!((u.reference.as_str(), u.subdir.as_str()), ("main", "dir"));
        assert_eq!(u.user.as_deref(), Some("me:pw"));
        assert_eq!(u.remote, "https://me:pw@host.xz:8080/a/b.git");
        assert_eq!(u.query, [("tag".into(), "v1".into()), ("x".into(), " ".into())]);
        let u = GitUrl::parse("git@github.com:moby/buildkit.git#v1").unwrap();
        assert_eq!(
            (u.scheme.as_str(), u.path.as_str(), u.reference.as_str()),
            ("ssh", "moby/buildkit.git", "v1")
        );
        assert_eq!(u.remote, "git@github.com:moby/buildkit.git");
    }

    #[test]
    fn refuses() {
        assert_eq!(GitUrl::parse("github.com/a/b"), Err(GitUrlError::NoProtocol));
        assert!(matches!(GitUrl::parse("file:///x"), Err(GitUrlError::Protocol(_))));
        assert!(matches!(GitUrl::parse("https://a b/"), Err(GitUrlError::Malformed(_))));
        assert!(matches!(GitUrl::parse("https://a/%zz"), Err(GitUrlError::Malformed(_))));
        assert!(!is_git_transport("foo:bar") && is_git_transport("GIT://x/y") && is_git_transport("a@b:c"));
        assert!(is_commit_sha(&"a".repeat(40)) && !is_commit_sha("abc"));
    }
}
