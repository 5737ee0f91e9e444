//! Whoever may answer for a build.

use std::{fmt, sync::Arc, time::Duration};

use crate::{Error, Manager, Session};

/// How long one session of a group is waited for: its client may still be connecting.
const PATIENCE: Duration = Duration::from_secs(5);

type Members = dyn Fn() -> Vec<String> + Send + Sync;

/// A live handle on the sessions that may answer for one piece of work.
///
/// Several clients can want the same vertex; any of them can be asked, and one may leave while the work goes on. So a group knows
/// how to find its members, not who they are.
#[derive(Clone)]
pub struct Group {
    manager: Arc<Manager>,
    members: Arc<Members>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&(self.members)()).finish()
    }
}

impl Group {
    /// A group whose members `members` lists anew at each call, the preferred one first. Empty ids are ignored.
    pub fn new(manager: Arc<Manager>, members: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { manager, members: Arc::new(members) }
    }

    /// A group of sessions that are known.
    #[must_use]
    pub fn of(manager: Arc<Manager>, ids: Vec<String>) -> Self {
        Self::new(manager, move || ids.clone())
    }

    /// The ids of the members now.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        (self.members)().into_iter().filter(|id| !id.is_empty()).collect()
    }

    /// The same sessions, with `id` asked first.
    #[must_use]
    pub fn preferring(&self, id: &str) -> Self {
        let (members, first) = (self.members.clone(), id.to_owned());
        Self::new(self.manager.clone(), move || {
            let mut ids = members();
            ids.retain(|id| *id != first);
            ids.insert(0, first.clone());
            ids
        })
    }

    /// The manager in which the sessions are looked up.
    #[must_use]
    pub fn manager(&self) -> &Arc<Manager> {
        &self.manager
    }

    /// Asks one member after another until `ask` succeeds. Members that are there come before those that must be waited for.
    ///
    /// # Errors
    /// The last member's error; [`Error::NoSession`] naming `wanted` for an empty group.
    pub async fn any<T, F, Fut>(&self, wanted: &str, mut ask: F) -> Result<T, Error>
    where
        F: FnMut(Arc<Session>) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut last = None;
        let mut absent = Vec::new();
        for id in self.ids() {
            match self.manager.find(&id) {
                Some(session) => match ask(session).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = Some(error),
                },
                None => absent.push(id),
            }
        }
        if last.is_none() {
            for id in absent {
                let answer = match self.manager.get(&id, PATIENCE).await {
                    Ok(session) => ask(session).await,
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = Some(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::NoSession { wanted: wanted.to_owned() }))
    }
}
