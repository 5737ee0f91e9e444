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
            for source in &self.offering {
                let outcome = match root.try_clone() {
                    Ok(root) => source.fill(&self.mount, root, sessions, progress).await,
                    Err(error) => Err(error.to_string()),
                };
                match outcome {
                    Ok(true) => return true,
                    Ok(false) => {}
                    // What has been put there is in the way of another source.
                    Err(problem) => {
                        self.tell(&problem);
                        return false;
                    }
                }
            }
            false
        })
    }
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
