//! What happens in a build, as far as its record needs it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use kiln_engine::{Decision, Event, Outcome, ProgressSink, VertexEvent};
use kiln_oci::Digest;
use kiln_ops::{Content, Witness};
use kiln_session::Manager;

use crate::log::BuildLog;

/// Writes a build's log, and remembers the last that was heard of each vertex.
pub(crate) struct Recorder {
    log: Arc<BuildLog>,
    sessions: Arc<Manager>,
    session: String,
    /// The client's name for its host or folder, once it has come.
    shared_key: OnceLock<String>,
    seen: Mutex<Seen>,
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) vertices: HashMap<Digest, VertexSeen>,
    pub(crate) contents: HashMap<Digest, Content>,
    pub(crate) warnings: usize,
}

/// What was seen of a vertex.
#[derive(Default)]
pub(crate) struct VertexSeen {
    pub(crate) event: Option<VertexEvent>,
    /// The last decision, but for those of results that turned out to be gone.
    pub(crate) decision: Option<Decision>,
    /// Why a result was gone.
    pub(crate) lost: Option<Arc<str>>,
}

impl Recorder {
    pub(crate) fn new(log: Arc<BuildLog>, sessions: Arc<Manager>, session: String) -> Arc<Self> {
        let (shared_key, seen) = (OnceLock::new(), Mutex::default());
        Arc::new(Self { log, sessions, session, shared_key, seen })
    }

    /// All that was seen; nothing is left, so that no tree is held on to.
    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut *self.lock())
    }

    pub(crate) fn shared_key(&self) -> &str {
        self.shared_key.get().map_or("", String::as_str)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_for_client(&self) {
        if self.shared_key.get().is_none()
            && let Some(session) = self.sessions.find(&self.session)
        {
            // Another thread was faster with the same.
            drop(self.shared_key.set(session.shared_key().to_owned()));
        }
    }

    fn decided(&self, decision: &Decision) {
        let mut seen = self.lock();
        let vertex = seen.vertices.entry(decision.edge.vertex.clone()).or_default();
        match &decision.outcome {
            Outcome::Gone { error, .. } => vertex.lost = Some(error.clone()),
            _ => vertex.decision = Some(decision.clone()),
        }
    }
}

impl ProgressSink for Recorder {
    fn event(&self, event: Event) {
        match &event {
            Event::Vertex(vertex) => {
                self.look_for_client();
                self.lock().vertices.entry(vertex.digest.clone()).or_default().event = Some(vertex.clone());
            }
            Event::Decision(decision) => self.decided(decision),
            Event::Warning(_) => self.lock().warnings += 1,
            Event::Status(_) | Event::Log(_) => {}
        }
        self.log.event(event);
    }
}

impl Witness for Recorder {
    fn hashed(&self, digest: &Digest, content: Content) {
        self.lock().contents.insert(digest.clone(), content);
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("session", &self.session).finish_non_exhaustive()
    }
}
