//! Builds that are under way, and who is told when something becomes of one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kiln_proto::control::{BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord};
use tokio::sync::broadcast;

/// Events that a client may be behind.
const QUEUE: usize = 256;

/// What happens now.
#[derive(Debug)]
pub(super) struct Live {
    active: Mutex<BTreeMap<String, Active>>,
    events: broadcast::Sender<BuildHistoryEvent>,
}

#[derive(Debug)]
struct Active {
    record: BuildHistoryRecord,
    /// Somebody wants nothing kept of it.
    unwanted: bool,
}

impl Default for Live {
    fn default() -> Self {
        Self { active: Mutex::default(), events: broadcast::channel(QUEUE).0 }
    }
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The builds that are under way, and what happens from there on.
    pub(super) fn listen(&self) -> (Vec<BuildHistoryRecord>, broadcast::Receiver<BuildHistoryEvent>) {
        // None begins or ends in between.
        let active = self.lock();
        let wanted = active.values().filter(|build| !build.unwanted);
        (wanted.map(|build| build.record.clone()).collect(), self.events.subscribe())
    }

    pub(super) fn is_active(&self, reference: &str) -> bool {
        self.lock().contains_key(reference)
    }

    /// Nothing is to be kept of a build that is under way.
    pub(super) fn forget(&self, reference: &str) {
        let mut active = self.lock();
        if let Some(build) = active.get_mut(reference)
            && !std::mem::replace(&mut build.unwanted, true)
        {
            let record = build.record.clone();
            self.tell(BuildHistoryEventType::Deleted, record);
        }
    }

    pub(super) fn is_unwanted(&self, reference: &str) -> bool {
        self.lock().get(reference).is_some_and(|build| build.unwanted)
    }

    /// A build begins.
    pub(super) fn begin(&self, record: BuildHistoryRecord) {
        let mut active = self.lock();
        active.insert(record.r#ref.clone(), Active { record: record.clone(), unwanted: false });
        self.tell(BuildHistoryEventType::Started, record);
    }

    /// A build has ended; without a record, nothing is kept of it.
    pub(super) fn end(&self, reference: &str, record: Option<BuildHistoryRecord>) {
        let mut active = self.lock();
        let began = active.remove(reference);
        match (record, began) {
            (Some(record), _) => self.tell(BuildHistoryEventType::Complete, record),
            (None, Some(began)) if !began.unwanted => self.tell(BuildHistoryEventType::Deleted, began.record),
            (None, _) => {}
        }
    }

    /// A build is forgotten, or something about it has changed.
    pub(super) fn tell(&self, kind: BuildHistoryEventType, record: BuildHistoryRecord) {
        // Nobody may listen.
        drop(self.events.send(BuildHistoryEvent { r#type: kind.into(), record: Some(record) }));
    }
}
