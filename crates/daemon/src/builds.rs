//! The builds that are under way, by the names that their clients gave them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kiln_frontend::{Bridge, FrontendResult};
use kiln_oci::Descriptor;
use kiln_proto::{pb, status::WireError};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tonic::Code;

use crate::{conversation::Conversation, log::BuildLog};

/// How long a call that names a build waits for it: clients start all their calls at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a finished build can still be asked about: its client's last calls may come after its end.
const LINGER: Duration = Duration::from_secs(30);

/// One build.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) log: Arc<BuildLog>,
    /// With the client.
    pub(crate) conversation: Arc<Conversation>,
    /// The images that exporters have made of its result, by the places of these.
    pub(crate) images: Mutex<BTreeMap<i64, Descriptor>>,
}

impl Build {
    /// A build, and what its client will return.
    pub(crate) fn new(
        log: Arc<BuildLog>,
        bridge: Arc<Bridge>,
        inputs: BTreeMap<String, pb::Definition>,
    ) -> (Arc<Self>, oneshot::Receiver<Result<FrontendResult, WireError>>) {
        let (conversation, receiver) = Conversation::new(bridge, inputs);
        (Arc::new(Self { log, conversation, images: Mutex::default() }), receiver)
    }

    /// A build that was refused before it began: its other calls are told at once, rather than wait for it.
    fn refused(log: Arc<BuildLog>) -> Arc<Self> {
        log.end();
        Arc::new(Self { log, conversation: Conversation::over(), images: Mutex::default() })
    }
}

/// All builds of a daemon.
#[derive(Debug)]
pub(crate) struct Builds {
    known: Mutex<HashMap<String, Entry>>,
    arrivals: watch::Sender<u64>,
    active: watch::Sender<usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    build: Arc<Build>,
    running: bool,
}

impl Default for Builds {
    fn default() -> Self {
        Self { known: Mutex::default(), arrivals: watch::Sender::new(0), active: watch::Sender::new(0) }
    }
}

impl Builds {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a build until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, name: &str, build: Arc<Build>) -> Result<Running, WireError> {
        let mut known = self.lock();
        if known.get(name).is_some_and(|entry| entry.running) {
            return Err(WireError::new(
                Code::AlreadyExists,
                format!("a build called {name} is running already"),
            ));
        }
        known.insert(name.to_owned(), Entry { build: build.clone(), running: true });
        drop(known);
        self.arrivals.send_modify(|n| *n += 1);
        self.active.send_modify(|n| *n += 1);
        Ok(Running { builds: self.clone(), name: name.to_owned(), build })
    }

    /// Remembers for a moment that the build `name` was refused.
    pub(crate) fn refuse(self: &Arc<Self>, name: &str, log: Arc<BuildLog>) {
        let build = Build::refused(log);
        self.lock().entry(name.to_owned()).or_insert_with(|| Entry { build: build.clone(), running: false });
        self.arrivals.send_modify(|n| *n += 1);
        self.forget_later(name.to_owned(), build);
    }

    fn forget_later(self: &Arc<Self>, name: String, build: Arc<Build>) {
        let builds = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            let mut known = builds.lock();
            if known.get(&name).is_some_and(|entry| Arc::ptr_eq(&entry.build, &build)) {
                known.remove(&name);
            }
        });
    }

    /// Whether there is a build of that name now, or was a moment ago.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// The build of that name, which may be about to start.
    pub(crate) async fn get(&self, name: &str) -> Result<Arc<Build>, WireError> {
        let mut arrivals = self.arrivals.subscribe();
        let found = timeout(PATIENCE, async {
            loop {
                if let Some(entry) = self.lock().get(name) {
                    return entry.build.clone();
                }
                if arrivals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        });
        found.await.map_err(|_| WireError::new(Code::NotFound, format!("no such job {name}")))
    }

    /// Returns when no build is running.
    pub(crate) async fn idle(&self) {
        // The sender lives as long as this.
        drop(self.active.subscribe().wait_for(|n| *n == 0).await);
    }
}

/// A build that is running.
pub(crate) struct Running {
    builds: Arc<Builds>,
    name: String,
    build: Arc<Build>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.build.conversation.close();
        self.build.log.end();
        if let Some(entry) = self.builds.lock().get_mut(&self.name) {
            entry.running = false;
        }
        self.builds.active.send_modify(|n| *n -= 1);
        self.builds.forget_later(std::mem::take(&mut self.name), self.build.clone());
    }
}
