//! The bare repository of a remote.

use std::path::{Path, PathBuf};

use kiln_llb::source::{Git as GitId, is_commit_sha};
use kiln_oci::Digest;
use kiln_store::MountSpec;
use kiln_worker::{MutableRef, RefOptions};
use tokio::sync::OwnedMutexGuard;

use super::{
    command::{Failed, Git},
    refs::Resolved,
};
use crate::{Error, Sources, http::shown};

/// What git says of a server that knows no shallow fetches.
const NO_DEPTH: &[&str] = &["--depth", "shallow"];
/// What it says of one that gives only what refs point to.
const NO_COMMITS: &[&str] = &["not our ref", "unadvertised object"];
/// Files that a killed git leaves behind.
const LOCKS: &[&str] = &["shallow.lock", "packed-refs.lock", "config.lock", "index.lock"];
/// Where what was fetched by name is kept from being collected.
pub(super) const OWN_REFS: &str = "refs/kiln";

/// The repository, with nobody else in it.
pub(super) struct Repo {
    pub(super) dir: PathBuf,
    /// Works on it.
    pub(super) git: Git,
    /// The commit that was wanted, tags peeled.
    pub(super) commit: String,
    _mutable: MutableRef,
    _alone: OwnedMutexGuard<()>,
}

/// The folder of a tree that stands on nothing.
pub(super) fn folder(mutable: &mut MutableRef) -> Result<PathBuf, Error> {
    match mutable.mount_spec()? {
        MountSpec::Bind { path, .. } => Ok(path),
        MountSpec::Overlay { .. } => {
            Err(Error::Git("a tree that stands on nothing is no single folder".into()))
        }
    }
}

impl Repo {
    /// Opens the repository of the remote, and fetches what `wanted` names unless it is there.
    pub(super) async fn with_commit(
        sources: &Sources,
        id: &GitId,
        wanted: &Resolved,
        git: &Git,
    ) -> Result<Self, Error> {
        let sha256 = wanted.checksum.len() == 64;
        let text = format!("{}{}", id.remote, if sha256 { " sha256" } else { "" });
        let key = format!("git-remote:{}", Digest::sha256(text));
        let alone = sources.builds.alone(&key).await;
        let doing = format!("failed to fetch remote {}", shown(&id.remote));
        let mut fetched = Err(Error::Git(doing.clone()));
        // What a killed git, or an older one, left may be beyond repair: then it is made anew.
        for fresh in [false, true] {
            let (mutable, dir) = open(sources, id, &key, sha256, git, fresh).await?;
            let git = git.repository(&dir);
            match fetch(&git, &dir, id, wanted).await {
                Ok(()) => {
                    fetched = Ok((mutable, dir, git));
                    break;
                }
                Err(Fetch::Spoilt(_)) if !fresh => {}
                Err(Fetch::Spoilt(error) | Fetch::Failed(error)) => {
                    fetched = Err(error.when(&doing));
                    break;
                }
                Err(Fetch::Gone) => {
                    fetched = Err(Error::Git(format!(
                        "{doing}: ref {} does not match expected commit {} and commit can not be found in the repository",
                        wanted.reference, wanted.checksum
                    )));
                    break;
                }
            }
        }
        let (mutable, dir, git) = fetched?;
        let peeled = format!("{}^{{commit}}", wanted.checksum);
        let commit = git.quiet().line(&["rev-parse", "--verify", "--end-of-options", &peeled]).await;
        let commit = commit.map_err(|e| e.when(&doing))?;
        Ok(Self { dir, git, commit, _mutable: mutable, _alone: alone })
    }
}

/// Takes up the repository, or makes it.
async fn open(
    sources: &Sources,
    id: &GitId,
    key: &str,
    sha256: bool,
    git: &Git,
    fresh: bool,
) -> Result<(MutableRef, PathBuf), Error> {
    let (worker, key, remote) = (sources.worker.clone(), key.to_owned(), shown(&id.remote));
    let find = tokio::task::spawn_blocking(move || {
        for id in worker.find(&key)? {
            match worker.reopen(&id)? {
                Some(spoilt) if fresh => spoilt.discard()?,
                Some(mut found) => {
                    let dir = folder(&mut found)?;
                    return Ok((found, dir));
                }
                None => {}
            }
        }
        let description = format!("shared git repo for {remote}");
        let options = RefOptions { retain: true, keys: vec![key], ..RefOptions::described(description) };
        let mut made = worker.create(None, options)?;
        let dir = folder(&mut made)?;
        Ok::<_, Error>((made, dir))
    });
    let (mutable, dir) = find.await??;
    if !dir.join("HEAD").exists() {
        let format = if sha256 { "--object-format=sha256" } else { "--object-format=sha1" };
        let made = git.repository(&dir).run(&["init", "--quiet", "--bare", format]).await;
        made.map_err(|e| e.when("failed to init a repository"))?;
    }
    for lock in LOCKS {
        remove_file(&dir.join(lock))?;
    }
    Ok((mutable, dir))
}

pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

enum Fetch {
    /// The server does not have it any more.
    Gone,
    /// The repository is in the way.
    Spoilt(Failed),
    Failed(Failed),
}

impl From<Failed> for Fetch {
    fn from(failed: Failed) -> Self {
        let spoilt = [
            "would clobber existing tag",
            "some local refs could not be updated",
            "cannot lock ref",
            "File exists",
            "object file",
            "bad object",
            "not a git repository",
        ];
        if failed.says(&spoilt) { Self::Spoilt(failed) } else { Self::Failed(failed) }
    }
}

async fn fetch(git: &Git, dir: &Path, id: &GitId, wanted: &Resolved) -> Result<(), Fetch> {
    let sha = wanted.checksum.as_str();
    let here = async || git.quiet().run(&["cat-file", "-e", sha]).await.is_ok();
    if here().await {
        return Ok(());
    }
    let by_commit = is_commit_sha(&wanted.reference) || id.fetch_by_commit;
    if !by_commit {
        let own = format!("+{}:{OWN_REFS}/{}", wanted.reference, Digest::sha256(&wanted.reference).hex());
        shallow(git, &["fetch", "--depth=1", "--no-tags", "--", &id.remote, &own]).await?;
        if here().await {
            return Ok(());
        }
        // It has moved since it was resolved; the commit itself may still be had.
    }
    let own = format!("+{sha}:{OWN_REFS}/{sha}");
    // A kept `.git` shows the commit's tags, which come with its history only.
    if by_commit && (id.fetch_by_commit || !id.keep_git_dir) {
        match shallow(git, &["fetch", "--depth=1", "--no-tags", "--", &id.remote, &own]).await {
            Ok(()) if here().await => return Ok(()),
            Err(error) if id.fetch_by_commit => return Err(error.into()),
            _ => {}
        }
    }
    let mut args = vec!["fetch", "--tags", "--force"];
    if dir.join("shallow").exists() {
        args.push("--unshallow");
    }
    args.extend(["--", &id.remote]);
    let everything = [args.as_slice(), &["+refs/heads/*:refs/remotes/origin/*"]].concat();
    match git.run(&[args.as_slice(), &[&own]].concat()).await {
        Err(failed) if failed.says(NO_COMMITS) => drop(git.run(&everything).await?),
        done => drop(done?),
    }
    if here().await { Ok(()) } else { Err(Fetch::Gone) }
}

/// Runs a command with `--depth=1`, and without where the server does not know what that is.
pub(super) async fn shallow(git: &Git, args: &[&str]) -> Result<(), Failed> {
    match git.run(args).await {
        Err(failed) if failed.says(NO_DEPTH) => {
            let whole: Vec<&str> = args.iter().copied().filter(|arg| *arg != "--depth=1").collect();
            git.run(&whole).await.map(drop)
        }
        done => done.map(drop),
    }
}
