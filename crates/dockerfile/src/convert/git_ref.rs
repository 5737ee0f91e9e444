//! Git repositories as sources of ADD and as contexts: a URL whose query or fragment says what to take.
//!
//! ```text
//! https://host/repo.git#ref:folder
//! https://host/repo.git?ref=…|tag=…|branch=…&subdir=…&checksum=…&keep-git-dir&submodules=false&mtime=commit
//! git@host:repo.git   ssh://…   git://…   github.com/user/repo (contexts only)
//! ```

use kiln_llb::build::{Constraints, GitOptions, State, git};
use kiln_llb::source::{GitUrl, GitUrlError};

use crate::text::parse_bool;

/// A repository, with what to take of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitRef {
    /// The URL without query and fragment.
    pub remote: String,
    /// Branch, tag or commit; empty for the remote's default.
    pub reference: String,
    /// Folder within the repository.
    pub subdir: String,
    /// The commit that must come out.
    pub checksum: String,
    /// Keep `.git`, when the URL says.
    pub keep_git_dir: Option<bool>,
    /// Fetch submodules, when the URL says.
    pub submodules: Option<bool>,
    /// Times of files: `checkout` or `commit`; empty when the URL doesn't say.
    pub mtime: String,
    /// Fetch the checksum's commit whatever the ref says now.
    pub fetch_by_commit: bool,
    /// The form without scheme, which could be a path as well.
    pub looks_local: bool,
}

/// Why a string is no repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitRefError {
    /// It is something else: a path, or the URL of a file.
    #[error("not a git repository")]
    NotGit,
    /// It is one, but asks for something that does not exist.
    #[error("invalid git URL: {0}")]
    Query(String),
}

impl GitRef {
    /// Reads a reference to a repository.
    ///
    /// # Errors
    /// See [`GitRefError`]. Web URLs are repositories only when their path ends in `.git`.
    pub fn parse(s: &str) -> Result<Self, GitRefError> {
        if s.starts_with("./") || s.starts_with("../") {
            return Err(GitRefError::NotGit);
        }
        let looks_local = s.starts_with("github.com/");
        let url = if looks_local { GitUrl::parse(&format!("https://{s}")) } else { GitUrl::parse(s) };
        let url = url.map_err(|_: GitUrlError| GitRefError::NotGit)?;
        if !looks_local && matches!(url.scheme.as_str(), "http" | "https") && !url.path.ends_with(".git") {
            return Err(GitRefError::NotGit);
        }
        let mut git = Self {
            remote: url.remote,
            reference: url.reference,
            subdir: url.subdir,
            looks_local,
            ..Self::default()
        };
        if looks_local {
            git.remote = git.remote.trim_start_matches("https://").to_owned();
        }
        git.query(&url.query).map_err(GitRefError::Query)?;
        Ok(git)
    }

    fn query(&mut self, query: &[(String, String)]) -> Result<(), String> {
        let (mut tag, mut branch) = (String::new(), String::new());
        for (i, (key, value)) in query.iter().enumerate() {
            if query.iter().take(i).any(|(k, _)| k == key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            let flag = || match value.as_str() {
                "" => Ok(true),
                v => parse_bool(v).ok_or_else(|| format!("invalid {key} value: {v:?}")),
            };
            if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit")
            {
                return Err(format!("query {key:?} has no value"));
            }
            match key.as_str() {
                "ref" => set(&mut self.reference, value, "ref")?,
                "subdir" => set(&mut self.subdir, value, "subdir")?,
                "tag" => tag = qualified(value, "refs/tags/"),
                "branch" => branch = qualified(value, "refs/heads/"),
                "checksum" | "commit" => self.checksum.clone_from(value),
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.submodules = Some(flag()?),
                "fetch-by-commit" => self.fetch_by_commit = flag()?,
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => self.mtime.clone_from(value),
                "mtime" => {
                    return Err(format!(
                        "invalid mtime value: {value:?} (must be \"checkout\" or \"commit\")"
                    ));
                }
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        if !tag.is_empty() && !branch.is_empty() {
            return Err("branch conflicts with tag".into());
        }
        for name in [tag, branch] {
            if !name.is_empty() {
                set(&mut self.reference, &name, "ref")?;
            }
        }
        Ok(())
    }

    /// The options of a source op for all that the URL says.
    pub(super) fn options(&self) -> GitOptions {
        GitOptions {
            reference: self.reference.clone(),
            subdir: self.subdir.clone(),
            keep_git_dir: self.keep_git_dir == Some(true),
            checksum: self.checksum.clone(),
            skip_submodules: self.submodules == Some(false),
            fetch_by_commit: self.fetch_by_commit,
            ..GitOptions::default()
        }
    }

    /// The repository as a context.
    pub(super) fn context(
        &self,
        keep_git_dir: bool,
        mtime_commit: bool,
        name: &str,
    ) -> Result<State, kiln_llb::Error> {
        let mut options = self.options();
        options.keep_git_dir |= keep_git_dir;
        options.mtime = match self.mtime.as_str() {
            "" if mtime_commit => "commit".to_owned(),
            mtime => mtime.to_owned(),
        };
        let name = format!("[internal] load git source {name}");
        git(&self.remote, options, Constraints::new().custom_name(name))
    }
}

fn set(field: &mut String, value: &str, name: &str) -> Result<(), String> {
    if !field.is_empty() && field != value {
        return Err(format!("{name} conflicts: {field:?} vs {value:?}"));
    }
    value.clone_into(field);
    Ok(())
}

fn qualified(name: &str, prefix: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// Is a source of ADD a repository? The short form is a path there.
pub(super) fn is_git(s: &str) -> bool {
    matches!(GitRef::parse(s), Ok(_) | Err(GitRefError::Query(_)))
}

/// Is a source of ADD a file from the web?
pub(super) fn is_http(s: &str) -> bool {
    (s.starts_with("http://") || s.starts_with("https://")) && !is_git(s)
}

/// The name that a file from the web gets: the last part of the URL's path.
pub(super) fn http_filename(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let rest = url[..end].split_once("://").map_or(&url[..end], |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = decode(name).unwrap_or_default();
    // A decoded slash would begin another folder.
    match name.rsplit('/').next() {
        None | Some("" | "." | "..") => "__unnamed__".to_owned(),
        Some(name) => name.to_owned(),
    }
}

fn decode(s: &str) -> Option<String> {
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
    fn references() {
        let git = GitRef::parse("https://h/r.git?tag=v1&keep-git-dir&submodules=0&checksum=abc#:d").unwrap();
        assert_eq!(
            (git.remote.as_str(), git.reference.as_str(), git.subdir.as_str()),
            ("https://h/r.git", "refs/tags/v1", "d")
        );
        assert_eq!(
            (git.keep_git_dir, git.submodules, git.checksum.as_str()),
            (Some(true), Some(false), "abc")
        );
        let short = GitRef::parse("github.com/a/b#x").unwrap();
        assert!(short.looks_local);
        assert_eq!((short.remote.as_str(), short.reference.as_str()), ("github.com/a/b", "x"));
        assert!(GitRef::parse("git@h:r.git").is_ok());
        assert!(GitRef::parse("git://h/r").is_ok());
    }

    #[test]
    fn others() {
        for s in ["", ".", "./github.com/a", "a/b", "https://h/file.tar", "file:///x", "http://h/r.git.tar"] {
            assert_eq!(GitRef::parse(s), Err(GitRefError::NotGit), "{s}");
        }
        for query in
            ["x=1", "ref=", "ref=a&ref=b", "tag=a&branch=b", "submodules=maybe", "mtime=now", "ref=a&tag=b"]
        {
            assert!(
                matches!(GitRef::parse(&format!("https://h/r.git?{query}")), Err(GitRefError::Query(_))),
                "{query}"
            );
        }
        assert!(is_http("https://h/x.tar.gz") && !is_http("https://h/r.git") && !is_http("x"));
    }

    #[test]
    fn names_of_web_files() {
        for (url, want) in [
            ("https://h/a/b.tar?x#y", "b.tar"),
            ("https://h", "__unnamed__"),
            ("https://h/", "__unnamed__"),
            ("https://h/a/", "a"),
            ("https://h/a%20b", "a b"),
            ("https://h/%2e%2e", "__unnamed__"),
        ] {
            assert_eq!(http_filename(url), want);
        }
    }
}
