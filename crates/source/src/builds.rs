//! What the builds that are under way have learnt.
//!
//! A branch or a URL means one thing for the whole of a build, whoever asks: a frontend that looks at a source, the vertex that is
//! built of it later, and another vertex with other attributes. So the first answer is kept until the build's session ends, and
//! with it the tree, which no prune can take in the meantime.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use kiln_session::Group;
use tokio::sync::OwnedMutexGuard;

use crate::{git::Resolved as GitResolved, http::Resolved as HttpResolved};

/// Something that a build has learnt.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// What a URL is.
    Http(Arc<HttpResolved>),
    /// What a ref of a repository is.
    Git(Arc<GitResolved>),
}

/// By session, then by what was asked.
type Known = HashMap<String, HashMap<String, Fact>>;
type Lock = tokio::sync::Mutex<()>;

/// The memory of all builds. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builds {
    known: Arc<Mutex<Known>>,
    locks: Arc<Mutex<HashMap<String, Weak<Lock>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Builds {
    /// What one of these builds has learnt about `what`.
    pub(crate) fn known(&self, sessions: &Group, what: &str) -> Option<Fact> {
        let known = lock(&self.known);
        sessions.ids().iter().find_map(|id| known.get(id)?.get(what).cloned())
    }

    /// Keeps a fact for these builds until their sessions end.
    pub(crate) fn learn(&self, sessions: &Group, what: &str, fact: &Fact) {
        for id in sessions.ids() {
            let Some(session) = sessions.manager().find(&id) else { continue };
            let first = {
                let mut known = lock(&self.known);
                let first = !known.contains_key(&id);
                known.entry(id.clone()).or_default().insert(what.to_owned(), fact.clone());
                first
            };
            if first {
                let known = self.known.clone();
                tokio::spawn(async move {
                    session.closed().await;
                    let forgotten = lock(&known).remove(&id);
                    // Letting go of refs writes to the store.
                    tokio::task::spawn_blocking(move || drop(forgotten));
                });
            }
        }
    }

    /// Waits until nobody else works on `what`.
    pub(crate) async fn alone(&self, what: &str) -> OwnedMutexGuard<()> {
        let mutex = {
            let mut locks = lock(&self.locks);
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(what).and_then(Weak::upgrade) {
                Some(mutex) => mutex,
                None => {
                    let mutex = Arc::new(Lock::default());
                    locks.insert(what.to_owned(), Arc::downgrade(&mutex));
                    mutex
                }
            }
        };
        mutex.lock_owned().await
    }
}
