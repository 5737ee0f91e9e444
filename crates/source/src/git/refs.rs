//! What a ref of a remote is, as `git ls-remote` tells.

use kiln_llb::source::is_commit_sha;

use crate::Error;

/// A ref that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Its full name, or a commit when that was asked for.
    pub(crate) reference: String,
    /// What it points to: a commit or an annotated tag.
    pub(crate) checksum: String,
    /// The commit of an annotated tag.
    pub(crate) tagged: Option<String>,
}

impl Resolved {
    /// Whether it is what the user pinned, which may be a prefix of either.
    pub(super) fn fits(&self, checksum: Option<&str>) -> bool {
        let Some(checksum) = checksum else { return true };
        self.checksum.starts_with(checksum) || self.tagged.as_ref().is_some_and(|c| c.starts_with(checksum))
    }

    pub(super) fn require(self, checksum: Option<&str>) -> Result<Self, Error> {
        if self.fits(checksum) {
            return Ok(self);
        }
        let (expected, mut got) = (checksum.unwrap_or_default(), self.checksum);
        if let Some(tagged) = self.tagged {
            got = format!("{got} or {tagged}");
        }
        Err(Error::Git(format!("expected checksum to match {expected}, got {got}")))
    }
}

/// The branch that `HEAD` stands for, from `ls-remote --symref <remote> HEAD`.
pub(super) fn default_branch(listing: &str) -> Option<&str> {
    listing.lines().find_map(|line| {
        let target = line.strip_prefix("ref: ")?.split('\t').next()?;
        target.strip_prefix("refs/heads/")
    })
}

/// Which line of `ls-remote <remote> <wanted> <wanted>^{}` is meant: the very name, else a branch, else a tag.
pub(super) fn choose(wanted: &str, listing: &str) -> Result<Resolved, Error> {
    let exact = format!("refs/{}", wanted.strip_prefix("refs/").unwrap_or(wanted));
    let branch = format!("refs/heads/{}", wanted.strip_prefix("refs/heads/").unwrap_or(wanted));
    let tag = format!("refs/tags/{}", wanted.strip_prefix("refs/tags/").unwrap_or(wanted));
    let find = |name: &str| {
        listing
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .find(|(_, found)| *found == name)
            .map(|(sha, _)| sha)
    };
    let (reference, checksum) = [exact, branch, tag.clone()]
        .into_iter()
        .find_map(|name| find(&name).map(|sha| (name, sha.to_owned())))
        .ok_or_else(|| Error::Git(format!("repository does not contain ref {wanted}")))?;
    if !is_commit_sha(&checksum) {
        return Err(Error::Git(format!("invalid commit sha {checksum:?} of ref {wanted}")));
    }
    let tagged = match reference == tag {
        true => find(&format!("{tag}^{{}}")).filter(|sha| is_commit_sha(sha)).map(str::to_owned),
        false => None,
    };
    Ok(Resolved { reference, checksum, tagged })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(c: char) -> String {
        c.to_string().repeat(40)
    }

    #[test]
    fn branches_come_before_tags() {
        let listing = format!(
            "{}\trefs/heads/v1\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n{}\trefs/heads/x/v1\n",
            sha('a'),
            sha('b'),
            sha('c'),
            sha('d')
        );
        let found = choose("v1", &listing).unwrap();
        assert_eq!((found.reference.as_str(), &found.checksum), ("refs/heads/v1", &sha('a')));
        assert_eq!(found.tagged, None);
        let found = choose("refs/tags/v1", &listing).unwrap();
        assert_eq!((found.reference.as_str(), &found.checksum), ("refs/tags/v1", &sha('b')));
        assert_eq!(found.tagged.as_ref(), Some(&sha('c')));
        assert!(found.fits(Some("ccc")) && found.fits(Some("bb")) && !found.fits(Some("a")));
        let error = found.require(Some("a")).unwrap_err().to_string();
        assert!(error.contains("expected checksum to match a, got bbbb"), "{error}");
        // Named to the letter it counts as it is, whatever it is.
        let exact = choose("tags/v1", &listing).unwrap();
        assert_eq!((&exact.checksum, exact.tagged), (&sha('b'), None));
        let error = choose("v2", &listing).unwrap_err().to_string();
        assert_eq!(error, "repository does not contain ref v2");
        assert!(choose("x", "short\trefs/heads/x").is_err());
    }

    #[test]
    fn default_branches() {
        let listing = format!("ref: refs/heads/v2\tHEAD\n{}\tHEAD\n", sha('a'));
        assert_eq!(default_branch(&listing), Some("v2"));
        assert_eq!(default_branch(&format!("{}\tHEAD\n", sha('a'))), None);
    }
}
