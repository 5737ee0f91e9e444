//! Repositories of git.
//!
//! ```text
//! a ref     ls-remote              → a commit: the cache key, with folder and options
//! a commit  a bare repository      kept, one for each remote: ref key git-remote:<sha256 of URL and format>
//!           a tree                 ref key git-tree:<sha256 of cache key and, where it matters, the URL>
//! ```
//!
//! The bare repository has one user at a time. Only commits are trusted to be in it: everything a checkout needs beside (index,
//! submodules and their settings) is made anew each time.

mod access;
mod checkout;
mod command;
mod refs;
mod repo;
mod spawn;

use std::sync::{Arc, Mutex, PoisonError};

use kiln_llb::source::{Git as GitId, GitMtime, is_commit_sha};
use kiln_oci::Digest;
use kiln_worker::ImmutableRef;

use crate::{Asking, Error, SourceKey, Sources, builds::Fact, http::shown, metadata::GitMetadata};

use access::Access;
use command::Git;
pub(crate) use refs::Resolved;

/// A repository as a source.
#[derive(Debug)]
pub(crate) struct GitSource {
    id: GitId,
    resolved: Mutex<Option<Arc<Resolved>>>,
}

impl GitSource {
    pub(crate) fn new(id: GitId, identifier: &str) -> Result<Self, Error> {
        let missing = [
            (id.bundle.is_some(), "fetching from a bundle (git.bundle)"),
            (id.checkout_bundle, "checking out as a bundle (git.checkoutbundle)"),
            (id.signature.is_some(), "checking a signature (git.sig)"),
        ];
        if let Some((_, feature)) = missing.into_iter().find(|(wanted, _)| *wanted) {
            return Err(Error::Feature { identifier: identifier.to_owned(), feature });
        }
        let hex = |c: &str| !c.is_empty() && c.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(checksum) = id.checksum.as_deref().filter(|c| !hex(c)) {
            let problem = format!("invalid checksum {checksum} for Git URL, expected hex commit hash");
            return Err(Error::Git(problem));
        }
        Ok(Self { id, resolved: Mutex::default() })
    }

    pub(crate) async fn key(&self, sources: &Sources, asking: &Asking) -> Result<SourceKey, Error> {
        let resolved = self.resolve(sources, asking).await?;
        Ok(SourceKey::only(self.cache_key(&resolved), resolved.checksum.clone()))
    }

    /// BuildKit's cache key of a checkout.
    fn cache_key(&self, resolved: &Resolved) -> String {
        let id = &self.id;
        let mut key = match &resolved.tagged {
            Some(commit) if !id.keep_git_dir => commit.clone(),
            _ => resolved.checksum.clone(),
        };
        if id.keep_git_dir {
            key += &format!(".git#{}", resolved.reference);
        }
        if !id.subdir.is_empty() {
            key += &format!(":{}", id.subdir);
        }
        if id.skip_submodules {
            key += "(skip-submodules)";
        }
        if id.mtime == GitMtime::Commit {
            key += "(mtime=commit)";
        }
        key
    }

    async fn resolve(&self, sources: &Sources, asking: &Asking) -> Result<Arc<Resolved>, Error> {
        let mine = || self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolved) = mine().clone() {
            return Ok(resolved);
        }
        let resolved = match self.named_commit()? {
            Some(resolved) => Arc::new(resolved),
            None => self.ask(sources, asking).await?,
        };
        *mine() = Some(resolved.clone());
        Ok(resolved)
    }

    /// What is known without asking: a ref that is a commit, or a commit that shall be fetched whatever the ref says.
    fn named_commit(&self) -> Result<Option<Resolved>, Error> {
        let id = &self.id;
        let commit = |sha: &str, reference: &str| Resolved {
            reference: reference.to_owned(),
            checksum: sha.to_owned(),
            tagged: None,
        };
        if is_commit_sha(&id.reference) {
            return commit(&id.reference, &id.reference).require(id.checksum.as_deref()).map(Some);
        }
        if !id.fetch_by_commit {
            return Ok(None);
        }
        match id.checksum.as_deref() {
            Some(sha) if is_commit_sha(sha) => {
                let reference = match id.reference.as_str() {
                    "" => sha.to_owned(),
                    name if name.starts_with("refs/") => name.to_owned(),
                    name => format!("refs/heads/{name}"),
                };
                Ok(Some(commit(sha, &reference)))
            }
            Some(short) => {
                Err(Error::Git(format!("fetch-by-commit requires a full commit SHA checksum, got {short:?}")))
            }
            None => Err(Error::Git("fetch-by-commit requires a checksum or a commit SHA ref".into())),
        }
    }

    async fn ask(&self, sources: &Sources, asking: &Asking) -> Result<Arc<Resolved>, Error> {
        let id = &self.id;
        let what = format!("git:{}#{}", id.remote, id.reference);
        let _alone = sources.builds.alone(&what).await;
        if let Some(Fact::Git(resolved)) = sources.builds.known(&asking.sessions, &what)
            && resolved.fits(id.checksum.as_deref())
        {
            return Ok(resolved);
        }
        let access = Access::new(id, &asking.sessions, Git::new(asking.progress.clone())).await?;
        let (git, remote) = (&access.git, id.remote.as_str());
        let doing = format!("failed to fetch remote {}", shown(remote));
        let mut reference = id.reference.clone();
        if reference.is_empty() {
            let listing = git.line(&["ls-remote", "--symref", "--", remote, "HEAD"]).await;
            let listing = listing.map_err(|e| e.when(&doing))?;
            let branch = refs::default_branch(&listing).filter(|name| !name.starts_with('-'));
            reference = branch.map(str::to_owned).ok_or_else(|| {
                Error::Git(format!("could not find default branch for repository: {}", shown(remote)))
            })?;
        }
        let peeled = format!("{reference}^{{}}");
        let listing = git.line(&["ls-remote", "--", remote, &reference, &peeled]).await;
        let mut found = refs::choose(&reference, &listing.map_err(|e| e.when(&doing))?)?
            .require(id.checksum.as_deref())?;
        if id.keep_git_dir {
            // The tag itself is kept, so it is what counts.
            found.tagged = None;
        }
        let found = Arc::new(found);
        sources.builds.learn(&asking.sessions, &what, &Fact::Git(found.clone()));
        Ok(found)
    }

    pub(crate) async fn snapshot(&self, sources: &Sources, asking: &Asking) -> Result<ImmutableRef, Error> {
        let resolved = self.resolve(sources, asking).await?;
        let key = self.tree_key(&resolved);
        let _alone = sources.builds.alone(&key).await;
        if let Some(tree) = self.kept(sources, &key).await? {
            return Ok(tree);
        }
        let access = Access::new(&self.id, &asking.sessions, Git::new(asking.progress.clone())).await?;
        let repo = repo::Repo::with_commit(sources, &self.id, &resolved, &access.git).await?;
        checkout::checkout(sources, &self.id, &resolved, &repo, key).await
    }

    /// Under which the tree is kept. Submodules and `.git` depend on where it came from, too.
    fn tree_key(&self, resolved: &Resolved) -> String {
        let mut text = self.cache_key(resolved);
        if self.id.keep_git_dir || !self.id.skip_submodules {
            text += &format!(" {}", self.id.remote);
        }
        format!("git-tree:{}", Digest::sha256(text))
    }

    async fn kept(&self, sources: &Sources, key: &str) -> Result<Option<ImmutableRef>, Error> {
        let (worker, key) = (sources.worker.clone(), key.to_owned());
        let find = tokio::task::spawn_blocking(move || {
            let ids = worker.find(&key)?;
            Ok::<_, Error>(ids.iter().find_map(|id| worker.get(id).ok()))
        });
        find.await?
    }

    /// What frontends ask; with `objects` the commit and tag themselves, which must be fetched.
    pub(crate) async fn metadata(
        &self,
        sources: &Sources,
        asking: &Asking,
        objects: bool,
    ) -> Result<GitMetadata, Error> {
        let resolved = self.resolve(sources, asking).await?;
        let mut answer = GitMetadata {
            checksum: resolved.checksum.clone(),
            reference: resolved.reference.clone(),
            commit_checksum: resolved.tagged.clone(),
            commit_object: None,
            tag_object: None,
        };
        if !objects {
            return Ok(answer);
        }
        let access = Access::new(&self.id, &asking.sessions, Git::new(asking.progress.clone())).await?;
        let repo = repo::Repo::with_commit(sources, &self.id, &resolved, &access.git).await?;
        let git = repo.git.quiet();
        let doing = format!("reading {} of {}", answer.checksum, shown(&self.id.remote));
        let failed = |e: command::Failed| e.when(&doing);
        let is_tag = git.line(&["cat-file", "-t", &answer.checksum]).await.map_err(failed)? == "tag";
        let mut commit = answer.checksum.clone();
        answer.commit_checksum = None;
        if is_tag {
            let peeled = format!("{commit}^{{commit}}");
            commit = git.line(&["rev-parse", "--verify", &peeled]).await.map_err(failed)?;
            answer.commit_checksum = Some(commit.clone());
            let tag = git.run(&["cat-file", "tag", &answer.checksum]).await.map_err(failed)?;
            answer.tag_object = Some(tag);
        }
        answer.commit_object = Some(git.run(&["cat-file", "commit", &commit]).await.map_err(failed)?);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(change: impl FnOnce(&mut GitId)) -> GitSource {
        let mut id = GitId { remote: "https://host/a".into(), ..GitId::default() };
        change(&mut id);
        GitSource::new(id, "git://host/a").unwrap()
    }

    #[test]
    fn cache_keys() {
        let resolved = Resolved {
            reference: "refs/tags/v1".into(),
            checksum: "a".repeat(40),
            tagged: Some("c".repeat(40)),
        };
        let (tag, commit) = ("a".repeat(40), "c".repeat(40));
        assert_eq!(source(|_| {}).cache_key(&resolved), commit);
        let kept =
            source(|id| id.keep_git_dir = true).cache_key(&Resolved { tagged: None, ..resolved.clone() });
        assert_eq!(kept, format!("{tag}.git#refs/tags/v1"));
        let all = source(|id| {
            (id.subdir, id.skip_submodules, id.mtime) = ("a/b".into(), true, GitMtime::Commit);
        });
        assert_eq!(all.cache_key(&resolved), format!("{commit}:a/b(skip-submodules)(mtime=commit)"));
    }

    #[test]
    fn commits_that_need_no_question() {
        let sha = "d".repeat(40);
        let known = |change: &dyn Fn(&mut GitId)| source(|id| change(id)).named_commit();
        assert_eq!(known(&|_| {}).unwrap(), None);
        assert_eq!(known(&|id| id.reference = sha.clone()).unwrap().unwrap().checksum, sha);
        let pinned = |id: &mut GitId| (id.reference, id.checksum) = (sha.clone(), Some("e".into()));
        assert!(known(&pinned).is_err());
        let by_commit = |id: &mut GitId| {
            (id.reference, id.checksum, id.fetch_by_commit) = ("main".into(), Some(sha.clone()), true);
        };
        assert_eq!(known(&by_commit).unwrap().unwrap().reference, "refs/heads/main");
        assert!(known(&|id| id.fetch_by_commit = true).is_err());
        assert!(known(&|id| (id.checksum, id.fetch_by_commit) = (Some("abc".into()), true)).is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |change: &dyn Fn(&mut GitId)| {
            let mut id = GitId::default();
            change(&mut id);
            GitSource::new(id, "git://x").unwrap_err().to_string()
        };
        assert!(error(&|id| id.bundle = Some("x".into())).contains("git.bundle"));
        assert!(error(&|id| id.checkout_bundle = true).contains("git.checkoutbundle"));
        assert!(error(&|id| id.signature = Some(Default::default())).contains("git.sig"));
        assert!(error(&|id| id.checksum = Some("main".into())).contains("expected hex"));
    }
}
