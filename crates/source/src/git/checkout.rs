//! From a commit in the bare repository to a tree.

use std::path::{Path, PathBuf};

use kiln_fstree::{Dir, Root, SetTimes, Time};
use kiln_llb::source::{Git as GitId, GitMtime, is_commit_sha};
use kiln_worker::{ImmutableRef, MutableRef, RecordType, RefOptions};

use super::{
    command::Git,
    refs::Resolved,
    repo::{OWN_REFS, Repo, folder, remove_file, shallow},
};
use crate::{Error, Sources, http::shown};

/// How deep a tree may be whose times are set.
const MAX_DEPTH: usize = 1024;

/// Makes the tree, and keeps it under `key`.
pub(super) async fn checkout(
    sources: &Sources,
    id: &GitId,
    wanted: &Resolved,
    repo: &Repo,
    key: String,
) -> Result<ImmutableRef, Error> {
    let (worker, remote, reference) = (sources.worker.clone(), shown(&id.remote), id.reference.clone());
    let prepare = tokio::task::spawn_blocking(move || {
        let options = RefOptions {
            record_type: RecordType::GitCheckout,
            ..RefOptions::described(format!("git snapshot for {remote}#{reference}"))
        };
        let mut mutable = worker.create(None, options)?;
        let dir = folder(&mut mutable)?;
        Ok::<_, Error>((mutable, dir))
    });
    let (mutable, dir) = prepare.await??;
    let mut part = None;
    if id.keep_git_dir && id.subdir.is_empty() {
        with_git_dir(id, wanted, repo, &dir).await?;
    } else {
        // A folder of it is moved up when all is there; the name is one that no repository can foresee.
        let aside = (!id.subdir.is_empty()).then(|| format!(".checkout-{}", mutable.id()));
        let tree = aside.as_ref().map_or_else(|| dir.clone(), |name| dir.join(name));
        std::fs::create_dir_all(&tree).map_err(Error::io("making a folder for a checkout"))?;
        files_only(id, repo, &tree).await?;
        part = aside;
    }
    let time = match id.mtime {
        GitMtime::Checkout => None,
        GitMtime::Commit => Some(commit_time(repo).await?),
    };
    let subdir = id.subdir.clone();
    let finish = tokio::task::spawn_blocking(move || finish(mutable, part.as_deref(), &subdir, time, &key));
    finish.await?
}

fn finish(
    mut mutable: MutableRef,
    aside: Option<&str>,
    subdir: &str,
    time: Option<Time>,
    key: &str,
) -> Result<ImmutableRef, Error> {
    let root = mutable.open()?;
    if let Some(aside) = aside {
        move_up(&root, aside, subdir)?;
    }
    if let Some(time) = time {
        let failed = Error::io("setting the times of a checkout");
        let dir = root.dir().try_clone().and_then(|dir| set_times(&dir, time, 0));
        dir.map_err(failed)?;
    }
    drop(root);
    let tree = mutable.commit()?;
    tree.add_key(key)?;
    Ok(tree)
}

/// The files of the commit and of its submodules, and nothing else.
async fn files_only(id: &GitId, repo: &Repo, tree: &Path) -> Result<(), Error> {
    let index = repo.dir.join("kiln-index");
    remove_file(&index)?;
    let git = repo.git.work_tree(tree).env("GIT_INDEX_FILE", &index);
    let doing = format!("failed to checkout remote {}", shown(&id.remote));
    git.run(&["read-tree", "--reset", "-u", &repo.commit]).await.map_err(|e| e.when(&doing))?;
    if wants_submodules(id, tree) {
        // What submodules leave in the repository is not to be met by the next checkout.
        let modules = repo.dir.join("modules");
        remove_tree(&modules)?;
        let config = repo.dir.join("config");
        let before = std::fs::read(&config).map_err(Error::io("reading a repository's settings"))?;
        let done = match git.run(&["config", "remote.origin.url", &id.remote]).await {
            Ok(_) => submodules(&git).await,
            Err(failed) => Err(failed),
        };
        std::fs::write(&config, before).map_err(Error::io("writing a repository's settings"))?;
        remove_tree(&modules)?;
        done.map_err(|e| e.when(&format!("failed to update submodules for {}", shown(&id.remote))))?;
        let tree = tree.to_owned();
        tokio::task::spawn_blocking(move || remove_git_files(&tree)).await??;
    }
    remove_file(&index)
}

/// A repository of its own with this one commit.
async fn with_git_dir(id: &GitId, wanted: &Resolved, repo: &Repo, dir: &Path) -> Result<(), Error> {
    let remote = shown(&id.remote);
    let doing = format!("failed to checkout remote {remote}");
    let failed = |e: super::command::Failed| e.when(&doing);
    let own_dir = dir.join(".git");
    let git = repo.git.repository(&own_dir).work_tree(dir);
    let format = if wanted.checksum.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    git.run(&["init", "--quiet", format]).await.map_err(failed)?;

    let from = format!("{OWN_REFS}/checkout");
    let sha = wanted.checksum.as_str();
    repo.git.run(&["update-ref", &from, sha]).await.map_err(failed)?;
    let is_tag = repo.git.quiet().line(&["cat-file", "-t", sha]).await.map_err(failed)? == "tag";
    // Over the protocol, since a clone of a folder takes short cuts that hostile repositories have abused.
    let url = format!("file://{}", repo.dir.display().to_string().replace('%', "%25"));
    let (tags, spec) = match local_name(&id.reference, &wanted.reference, is_tag) {
        None => ("--tags", from),
        Some(name) => ("--no-tags", format!("{from}:{name}")),
    };
    // Only tags of a commit that was asked for by its name are followed; others would depend on earlier builds.
    let follow: &[&str] = if tags == "--tags" { &[] } else { &["--no-tags"] };
    let fetch = [&["fetch", "--quiet", "-u", "--depth=1"], follow, &["--", &url, &spec]].concat();
    git.run(&fetch).await.map_err(failed)?;
    git.run(&["checkout", "--quiet", "--detach", "FETCH_HEAD"]).await.map_err(failed)?;
    git.run(&["remote", "add", "origin", &remote]).await.map_err(failed)?;
    remove_file(&own_dir.join("FETCH_HEAD"))?;
    if wants_submodules(id, dir) {
        let doing = format!("failed to update submodules for {remote}");
        submodules(&git).await.map_err(|e| e.when(&doing))?;
    }
    Ok(())
}

/// What the ref is called in a kept `.git`; nothing for a commit.
fn local_name(asked: &str, found: &str, is_tag: bool) -> Option<String> {
    let name = if asked.is_empty() { found } else { asked };
    if is_commit_sha(name) {
        return None;
    }
    let tag = |name: &str| format!("refs/tags/{}", name.strip_prefix("refs/tags/").unwrap_or(name));
    Some(match name.split_once('/').map(|(first, _)| first) {
        Some("refs") => name.to_owned(),
        Some("heads" | "tags" | "remotes") => format!("refs/{name}"),
        _ if is_tag => tag(name),
        _ => format!("refs/heads/{name}"),
    })
}

fn wants_submodules(id: &GitId, tree: &Path) -> bool {
    !id.skip_submodules && tree.join(".gitmodules").symlink_metadata().is_ok_and(|m| m.is_file())
}

async fn submodules(git: &Git) -> Result<(), super::command::Failed> {
    shallow(git, &["submodule", "update", "--init", "--recursive", "--depth=1"]).await
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Removes the files by which submodules know where their repositories are: these are elsewhere, and gone.
fn remove_git_files(tree: &Path) -> Result<(), Error> {
    fn walk(dir: &Dir, depth: usize) -> std::io::Result<()> {
        for entry in dir.list()? {
            let meta = dir.stat(&entry.name)?;
            if entry.name == ".git" && meta.is_file() {
                dir.unlink(&entry.name)?;
            } else if meta.is_dir() && depth < MAX_DEPTH {
                walk(&dir.open_dir(&entry.name)?, depth + 1)?;
            }
        }
        Ok(())
    }
    let root = Root::open(tree).map_err(|source| Error::Tree { name: "a git checkout".into(), source })?;
    walk(root.dir(), 0).map_err(Error::io("tidying a git checkout"))
}

/// Makes the folder `subdir` of `aside` the tree. Every part of the path must be a folder itself: a link in a repository leads
/// nowhere (CVE-2026-33748).
fn move_up(root: &Root, aside: &str, subdir: &str) -> Result<(), Error> {
    let failed = |source| Error::Io { what: format!("taking the folder {subdir} of a git checkout"), source };
    let mut dir = root.dir().open_dir(aside.as_ref()).map_err(failed)?;
    let mut so_far = PathBuf::new();
    for part in subdir.split('/').filter(|part| !part.is_empty()) {
        so_far.push(part);
        let meta = dir.stat(part.as_ref()).map_err(failed)?;
        if !meta.is_dir() {
            let problem =
                format!("invalid subdir {subdir}: git subpath contains non-directory {}", so_far.display());
            return Err(Error::Git(problem));
        }
        dir = dir.open_dir(part.as_ref()).map_err(failed)?;
    }
    for entry in dir.list().map_err(failed)? {
        dir.rename(&entry.name, root.dir(), &entry.name).map_err(failed)?;
    }
    drop(dir);
    root.dir().remove_all(aside.as_ref()).map_err(failed)
}

async fn commit_time(repo: &Repo) -> Result<Time, Error> {
    let text = repo.git.quiet().line(&["log", "-1", "--format=%ct", &repo.commit]).await;
    let text = text.map_err(|e| e.when("failed to get commit time"))?;
    let secs = text.parse().map_err(|_| Error::Git(format!("failed to parse commit timestamp {text:?}")))?;
    Ok(Time { secs, nanos: 0 })
}

/// Sets the times of everything, folders after what is in them.
fn set_times(dir: &Dir, time: Time, depth: usize) -> std::io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(std::io::Error::other(format!("folders are nested deeper than {MAX_DEPTH}")));
    }
    for entry in dir.list()? {
        if dir.stat(&entry.name)?.is_dir() {
            set_times(&dir.open_dir(&entry.name)?, time, depth + 1)?;
        } else {
            dir.set_times(&entry.name, SetTimes::both(time))?;
        }
    }
    dir.set_times_self(SetTimes::both(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_kept_repository() {
        let sha = "a".repeat(40);
        for (asked, found, is_tag, name) in [
            ("", "refs/heads/v2", false, Some("refs/heads/v2")),
            ("main", "refs/heads/main", false, Some("refs/heads/main")),
            ("v1", "refs/tags/v1", true, Some("refs/tags/v1")),
            ("refs/tags/v1", "refs/tags/v1", true, Some("refs/tags/v1")),
            ("tags/v1", "refs/tags/v1", false, Some("refs/tags/v1")),
            ("refs/pull/1/head", "refs/pull/1/head", false, Some("refs/pull/1/head")),
            (sha.as_str(), sha.as_str(), false, None),
        ] {
            assert_eq!(local_name(asked, found, is_tag).as_deref(), name, "{asked}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_no_subdir() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("root").join(name);
        std::fs::create_dir_all(at("aside/a/b")).unwrap();
        std::fs::write(at("aside/a/b/file"), "").unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../../../outside", at("aside/a/out")).unwrap();
        std::os::unix::fs::symlink("b", at("aside/a/link")).unwrap();
        let root = Root::open(dir.path().join("root")).unwrap();
        for bad in ["a/out", "a/link", "a/b/file", "a/nothing", "../outside", "a/../../outside"] {
            assert!(move_up(&root, "aside", bad).is_err(), "{bad}");
        }
        move_up(&root, "aside", "a/b").unwrap();
        assert!(at("file").exists() && !at("aside").exists());
    }
}
