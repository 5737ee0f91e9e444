//! The daemon's sessions: who is there, and whether they still are.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kiln_proto::{health, limits::Limited as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{Error, connection, headers::Opening};

/// Between health checks, if the client asks for nothing else.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// What a health check may take, if the client asks for nothing else. Long: a slow link that is full of files is not a dead one.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(15);

/// One client that is connected.
#[derive(Debug)]
pub struct Session {
    id: String,
    shared_key: String,
    /// Lower case.
    methods: HashSet<String>,
    channel: Channel,
    closed: CancellationToken,
}

impl Session {
    /// The name that the client gave itself.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Names the client's host, so that the trees of its folders are found again; may be empty.
    #[must_use]
    pub fn shared_key(&self) -> &str {
        &self.shared_key
    }

    /// Whether the client serves `method`, a path like `/moby.filesync.v1.FileSync/DiffCopy`; case does not matter.
    #[must_use]
    pub fn supports(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }

    /// An error if the client does not serve `method`.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn require(&self, method: &str) -> Result<(), Error> {
        if self.supports(method) { Ok(()) } else { Err(Error::Unsupported { method: method.to_owned() }) }
    }

    /// To call any of the client's services.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whether the client is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Returns when the client is gone.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

/// All sessions of a daemon.
#[derive(Debug)]
pub struct Manager {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// Counts arrivals, for those who wait for one.
    arrivals: watch::Sender<u64>,
}

impl Default for Manager {
    fn default() -> Self {
        Self { sessions: Mutex::default(), arrivals: watch::Sender::new(0) }
    }
}

impl Manager {
    /// Takes a client's stream and keeps its session until the stream ends, the client stops answering or the future is dropped.
    ///
    /// # Errors
    /// [`Error::Transport`] when the stream does not speak HTTP/2.
    pub async fn serve<IO>(&self, opening: Opening, io: IO) -> Result<(), Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (channel, closed) = connection::call(io).await?;
        let session = Arc::new(Session {
            id: opening.id,
            shared_key: opening.shared_key,
            methods: opening.methods.iter().map(|m| m.to_ascii_lowercase()).collect(),
            channel,
            closed,
        });
        let _registered = Registered::new(self, session.clone());
        tracing::debug!(session = session.id, "session started");
        tokio::select! {
            () = session.closed() => {}
            () = watch_health(&session, opening.health_timeout) => {}
        }
        tracing::debug!(session = session.id, "session ended");
        Ok(())
    }

    /// The session `id` if it is there. What comes before a colon in the id is ignored: vertices use it to tell contexts apart.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Session>> {
        let id = id.split_once(':').map_or(id, |(_, rest)| if rest.is_empty() { id } else { rest });
        self.lock().get(id).filter(|s| !s.is_closed()).cloned()
    }

    /// The session `id`, waiting for it as long as `patience` if it is not there yet.
    ///
    /// # Errors
    /// [`Error::NoActiveSession`] when it does not come.
    pub async fn get(&self, id: &str, patience: Duration) -> Result<Arc<Session>, Error> {
        let mut arrivals = self.arrivals.subscribe();
        let found = timeout(patience, async {
            loop {
                if let Some(session) = self.find(id) {
                    return session;
                }
                if arrivals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        });
        found.await.map_err(|_| Error::NoActiveSession { ids: id.to_owned(), waited: patience })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry of the manager's map, as long as it lives.
struct Registered<'a> {
    manager: &'a Manager,
    session: Arc<Session>,
}

impl<'a> Registered<'a> {
    fn new(manager: &'a Manager, session: Arc<Session>) -> Self {
        manager.lock().insert(session.id.clone(), session.clone());
        manager.arrivals.send_modify(|n| *n += 1);
        Self { manager, session }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.session.closed.cancel();
        let mut sessions = self.manager.lock();
        // A client that reconnected under the same id is another session.
        if sessions.get(&self.session.id).is_some_and(|s| Arc::ptr_eq(s, &self.session)) {
            sessions.remove(&self.session.id);
        }
    }
}

/// Returns when the client has failed to answer: twice in a row, or once if it chose the timeout itself.
async fn watch_health(session: &Session, chosen: Option<Duration>) {
    let (interval, limit, threshold) = match chosen {
        Some(timeout) => (timeout, timeout, 1),
        None => (HEALTH_INTERVAL, HEALTH_TIMEOUT, 2),
    };
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = health::health_client::HealthClient::new(session.channel()).limited();
    let (mut failures, mut last) = (0, Duration::ZERO);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        let answer =
            timeout(limit.max(last.mul_f32(1.5)), client.check(health::HealthCheckRequest::default())).await;
        last = began.elapsed();
        match answer {
            Ok(Ok(_)) => failures = 0,
            Ok(Err(status)) => {
                failures += 1;
                tracing::warn!(session = session.id, %status, "health check failed");
            }
            Err(_) => {
                failures += 1;
                tracing::warn!(session = session.id, after = ?last, "health check timed out");
            }
        }
        if failures >= threshold {
            return;
        }
    }
}
