//! Content of cache mounts that comes from elsewhere.

use std::sync::Arc;

use futures::future::BoxFuture;
use kiln_engine::{OpContext, VertexProgress, WarningEvent};
use kiln_fstree::Root;
use kiln_oci::Digest;
use kiln_session::Group;
use kiln_worker::{MountFiller, Unpacked};

use crate::{Host, Kiln, OpError};

/// A cache mount, as it is known everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedMount {
    /// Its id.
    pub name: String,
    /// The content digest of the files that it begins with; `None`: it begins empty.
    pub base: Option<Digest>,
}

/// Where the content of cache mounts can be had that this builder does not have.
pub trait MountSource: std::fmt::Debug + Send + Sync {
    /// Whether there may be content for a cache mount of this id, which begins with files or (not `based`) empty.
    fn offers<'a>(&'a self, name: &'a str, based: bool) -> BoxFuture<'a, bool>;

    /// Puts the content of a cache mount into the empty folder `root`. False when there is none.
    ///
    /// # Errors
    /// Why it could not be had; the folder then holds anything.
    fn fill<'a>(
        &'a self,
        mount: &'a WantedMount,
        root: Root,
        sessions: &'a Group,
        progress: &'a VertexProgress,
    ) -> BoxFuture<'a, Result<bool, String>>;
}

/// What a step's cache mounts are filled from when they are not here: what its builds import.
pub(crate) struct Filling {
    sources: Vec<Arc<dyn MountSource>>,
    sessions: Group,
    progress: VertexProgress,
}

impl Filling {
    pub(super) fn new(cx: &OpContext<Kiln>, sessions: &Group) -> Self {
        let sources = cx.jobs().into_iter().filter_map(|job| job.mounts).collect();
        Self { sources, sessions: sessions.clone(), progress: cx.progress().clone() }
    }

    /// What may fill the mount `name` on `below`; `None` when nobody offers it.
    pub(super) async fn of<'a>(
        &'a self,
        host: &Host,
        name: &str,
        below: Option<&Unpacked>,
    ) -> Result<Option<Filler<'a>>, OpError> {
        let mut offering = Vec::new();
        for source in &self.sources {
            if source.offers(name, below.is_some()).await {
                offering.push(&**source);
            }
        }
        if offering.is_empty() {
            return Ok(None);
        }
        let base = match below.cloned() {
            None => None,
            Some(below) => {
                let hashes = host.hashes.clone();
                Some(tokio::task::spawn_blocking(move || hashes.whole(&below)).await??)
            }
        };
        let mount = WantedMount { name: name.to_owned(), base };
        Ok(Some(Filler { of: self, offering, mount }))
    }
}

/// Fills one cache mount.
pub(super) struct Filler<'a> {
    of: &'a Filling,
    offering: Vec<&'a dyn MountSource>,
    mount: WantedMount,
}

impl MountFiller for Filler<'_> {
    fn fill(&self, root: Root) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let Filling { sessions, progress, .. } = self.of;
            let mut problems = Vec::new();
            for source in &self.offering {
                let outcome = match root.try_clone() {
                    Ok(root) => source.fill(&self.mount, root, sessions, progress).await,
                    Err(error) => Err(error.to_string()),
                };
                match outcome {
                    Ok(true) => return true,
                    Ok(false) => {}
                    Err(problem) => {
                        problems.push(problem);
                        // What has been put there would be in the way of another source.
                        if let Err(problem) = emptied(&root).await {
                            problems.push(problem);
                            break;
                        }
                    }
                }
            }
            if !problems.is_empty() {
                self.tell(&problems.join("; "));
            }
            false
        })
    }
}

/// Takes out of a folder what one source has put there.
async fn emptied(root: &Root) -> Result<(), String> {
    let root = root.try_clone().map_err(|error| error.to_string())?;
    let cleared = tokio::task::spawn_blocking(move || root.clear()).await;
    cleared.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

impl Filler<'_> {
    fn tell(&self, problem: &str) {
        let name = &self.mount.name;
        tracing::warn!(name, problem, "a cache mount could not be restored");
        let short = format!("cache mount {name} could not be restored and begins empty: {problem}");
        self.of.progress.warn(WarningEvent {
            vertex: self.of.progress.vertex().clone(),
            level: 1,
            short: short.into(),
            detail: Vec::new(),
            url: String::new(),
            info: None,
            ranges: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use kiln_session::Manager;

    use super::*;

    /// Puts a file of its name into the folder, if that is empty; then that is all, or it fails.
    #[derive(Debug)]
    struct Puts(&'static str, Result<bool, &'static str>);

    impl MountSource for Puts {
        fn offers<'a>(&'a self, _: &'a str, _: bool) -> BoxFuture<'a, bool> {
            Box::pin(std::future::ready(true))
        }

        fn fill<'a>(
            &'a self,
            _: &'a WantedMount,
            root: Root,
            _: &'a Group,
            _: &'a VertexProgress,
        ) -> BoxFuture<'a, Result<bool, String>> {
            assert!(root.list("").unwrap().is_empty());
            root.mkdir_all("d", 0o755).unwrap();
            root.write(format!("d/{}", self.0), b"", 0o644).unwrap();
            Box::pin(std::future::ready(self.1.map_err(str::to_owned)))
        }
    }

    async fn filled(sources: Vec<Puts>) -> (bool, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let filling = Filling {
            sources: Vec::new(),
            sessions: Group::of(Arc::new(Manager::default()), Vec::new()),
            progress: VertexProgress::unseen(Digest::sha256("step")),
        };
        let offering = sources.iter().map(|source| source as _).collect();
        let mount = WantedMount { name: "m".into(), base: None };
        let done = Filler { of: &filling, offering, mount }.fill(root.try_clone().unwrap()).await;
        let names = root.list("d").unwrap_or_default().into_iter();
        (done, names.map(|entry| entry.name.to_string_lossy().into_owned()).collect())
    }

    #[tokio::test]
    async fn a_source_that_fails_hides_none_that_has_it() {
        let good = || Puts("good", Ok(true));
        let (bad, worse) = (|| Puts("bad", Err("broken")), || Puts("worse", Err("gone")));
        assert_eq!(filled(vec![bad(), good()]).await, (true, vec!["good".to_owned()]));
        assert_eq!(filled(vec![bad(), worse(), good(), bad()]).await, (true, vec!["good".to_owned()]));
        assert!(!filled(vec![bad(), worse()]).await.0);
    }
}
