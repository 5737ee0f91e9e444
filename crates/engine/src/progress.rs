//! What happens to vertices, as an event stream for each job.
//!
//! Every vertex has a [`Hub`]. Ops write to it, the engine writes to it, and each job that holds the vertex has a
//! [`ProgressSink`] on it. A job that comes late is first told what has happened so far (of the log, the last
//! 256 KiB). A vertex whose work another vertex does for it hears from that one's hub.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use indexmap::IndexMap;
use kiln_oci::Digest;
use kiln_proto::pb;

use crate::sync::lock;
use crate::{Decision, JobSerial};

/// How many bytes of a vertex's log are kept for jobs that come late.
const HISTORY_BYTES: usize = 256 << 10;
/// How many statuses, and how many warnings, are kept for them.
const HISTORY_ITEMS: usize = 1024;

/// Something happened to a vertex.
#[derive(Debug, Clone)]
pub enum Event {
    /// The vertex is known, was started, completed, found in the cache, or failed.
    Vertex(VertexEvent),
    /// A part of its work moved on.
    Status(StatusEvent),
    /// It wrote something.
    Log(LogEvent),
    /// It has advice.
    Warning(WarningEvent),
    /// Why it ran, or why it did not.
    Decision(Decision),
}

/// The state of a vertex. A later event replaces an earlier one.
#[derive(Debug, Clone)]
pub struct VertexEvent {
    /// The vertex.
    pub digest: Digest,
    /// The vertices that it takes, one for each input.
    pub inputs: Arc<[Digest]>,
    /// Its name.
    pub name: Arc<str>,
    /// When it was started last.
    pub started: Option<SystemTime>,
    /// When that was over.
    pub completed: Option<SystemTime>,
    /// Whether the result came from a cache, or was not needed at all.
    pub cached: bool,
    /// Why it failed.
    pub error: Option<Arc<str>>,
    /// The display group that it belongs to.
    pub progress_group: Option<pb::ProgressGroup>,
}

/// A part of a vertex's work.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusEvent {
    /// The vertex.
    pub vertex: Digest,
    /// Names the part within the vertex.
    pub id: Arc<str>,
    /// What is done, in words.
    pub name: Arc<str>,
    /// How far it is; the unit is the writer's.
    pub current: i64,
    /// How far it will go; 0 when unknown.
    pub total: i64,
    /// When this was told.
    pub timestamp: SystemTime,
    /// When the part began.
    pub started: Option<SystemTime>,
    /// When the part ended.
    pub completed: Option<SystemTime>,
}

/// Output of a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// The vertex.
    pub vertex: Digest,
    /// 1 is standard output, 2 standard error.
    pub stream: i64,
    /// The bytes as they came.
    pub data: Bytes,
    /// When they came.
    pub timestamp: SystemTime,
}

/// Advice from a vertex.
#[derive(Debug, Clone, PartialEq)]
pub struct WarningEvent {
    /// The vertex.
    pub vertex: Digest,
    /// How bad; 1 is worst.
    pub level: i64,
    /// In one line.
    pub short: Bytes,
    /// In more lines.
    pub detail: Vec<Bytes>,
    /// Where to read on.
    pub url: String,
    /// The source it is about.
    pub info: Option<pb::SourceInfo>,
    /// Where in the source.
    pub ranges: Vec<pb::Range>,
}

/// Receives the events of a job, from any thread. Must not block.
pub trait ProgressSink: Send + Sync + 'static {
    /// Takes one event.
    fn event(&self, event: Event);
}

impl<F: Fn(Event) + Send + Sync + 'static> ProgressSink for F {
    fn event(&self, event: Event) {
        self(event);
    }
}

/// Where an op writes progress of its vertex. Cheap to clone, and valid for as long as anybody likes.
#[derive(Clone)]
pub struct VertexProgress {
    hub: Arc<Hub>,
}

impl VertexProgress {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// The progress of work that is no vertex of a job: nobody sees it.
    pub fn unseen(digest: Digest) -> Self {
        Self::new(Arc::new(Hub::new(digest, "".into(), Arc::new([]), None)))
    }

    /// The vertex.
    pub fn vertex(&self) -> &Digest {
        &self.hub.digest
    }

    /// Output of the op: stream 1 or 2.
    pub fn log(&self, stream: i64, data: impl Into<Bytes>) {
        let (vertex, data) = (self.hub.digest.clone(), data.into());
        self.hub.tell(Event::Log(LogEvent { vertex, stream, data, timestamp: SystemTime::now() }));
    }

    /// A part of the work. The event's vertex is set to this one.
    pub fn status(&self, mut status: StatusEvent) {
        status.vertex = self.hub.digest.clone();
        self.hub.tell(Event::Status(status));
    }

    /// Shows the vertex at work once more, until the guard is dropped: what it had left for later is done now. It is shown by
    /// itself, without its inputs, whose work was over before.
    pub fn resume(&self) -> Resumed {
        self.hub.started(false);
        self.hub.tell_alone();
        Resumed(self.hub.clone())
    }

    /// Starts a part of the work, named `id`. Finish it with [`Part::done`].
    pub fn part(&self, id: impl Into<Arc<str>>) -> Part {
        let id = id.into();
        self.part_of(id.clone(), id)
    }

    /// Starts a part of the work, told from others by `id` and of the kind `name`: `transferring`, say.
    pub fn part_of(&self, id: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Part {
        let (id, name, now) = (id.into(), name.into(), SystemTime::now());
        let part = Part { progress: self.clone(), id, name, started: now, total: 0, current: 0, done: false };
        part.tell(None);
        part
    }

    /// Advice. The event's vertex is set to this one.
    pub fn warn(&self, mut warning: WarningEvent) {
        warning.vertex = self.hub.digest.clone();
        self.hub.tell(Event::Warning(warning));
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hub").field(&self.digest).finish()
    }
}

impl fmt::Debug for VertexProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VertexProgress").field(&self.hub.digest).finish()
    }
}

/// A vertex that is shown at work once more.
#[derive(Debug)]
#[must_use]
pub struct Resumed(Arc<Hub>);

impl Drop for Resumed {
    fn drop(&mut self) {
        self.0.completed(None);
        self.0.tell_alone();
    }
}

/// A part of a vertex's work that is under way. Dropped, it is told as completed.
#[derive(Debug)]
pub struct Part {
    progress: VertexProgress,
    id: Arc<str>,
    name: Arc<str>,
    started: SystemTime,
    total: i64,
    current: i64,
    done: bool,
}

impl Part {
    /// How far it is, of how much (0: unknown).
    pub fn update(&mut self, current: i64, total: i64) {
        (self.current, self.total) = (current, total);
        self.tell(None);
    }

    /// It is done.
    pub fn done(self) {
        drop(self);
    }

    fn tell(&self, completed: Option<SystemTime>) {
        self.progress.status(StatusEvent {
            vertex: self.progress.vertex().clone(),
            id: self.id.clone(),
            name: self.name.clone(),
            current: self.current,
            total: self.total,
            timestamp: SystemTime::now(),
            started: Some(self.started),
            completed,
        });
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            self.tell(Some(SystemTime::now()));
        }
    }
}

struct Listener {
    job: JobSerial,
    sink: Arc<dyn ProgressSink>,
}

/// The events of one vertex: who listens, and what there was so far.
pub(crate) struct Hub {
    digest: Digest,
    state: Mutex<HubState>,
}

struct HubState {
    vertex: VertexEvent,
    statuses: IndexMap<Arc<str>, StatusEvent>,
    logs: VecDeque<LogEvent>,
    log_bytes: usize,
    warnings: Vec<WarningEvent>,
    decisions: Vec<Decision>,
    listeners: Vec<Listener>,
    followers: Vec<Arc<Hub>>,
}

impl Hub {
    pub(crate) fn new(
        digest: Digest,
        name: Arc<str>,
        inputs: Arc<[Digest]>,
        group: Option<pb::ProgressGroup>,
    ) -> Self {
        let vertex = VertexEvent {
            digest: digest.clone(),
            inputs,
            name,
            started: None,
            completed: None,
            cached: false,
            error: None,
            progress_group: group,
        };
        let state = HubState {
            vertex,
            statuses: IndexMap::new(),
            logs: VecDeque::new(),
            log_bytes: 0,
            warnings: Vec::new(),
            decisions: Vec::new(),
            listeners: Vec::new(),
            followers: Vec::new(),
        };
        Self { digest, state: Mutex::new(state) }
    }

    /// Adds a job's sink, and tells it what there was. Says whether it is new.
    pub(crate) fn join(&self, job: JobSerial, sink: &Arc<dyn ProgressSink>) -> bool {
        let mut state = lock(&self.state);
        if state.listeners.iter().any(|l| l.job == job) {
            return false;
        }
        state.replay(&**sink);
        state.listeners.push(Listener { job, sink: sink.clone() });
        true
    }

    /// Removes a job's sink. If the vertex is being worked on, that job is told that for it this is over.
    pub(crate) fn leave(&self, job: JobSerial) {
        let mut state = lock(&self.state);
        let Some(at) = state.listeners.iter().position(|l| l.job == job) else { return };
        let listener = state.listeners.swap_remove(at);
        if state.vertex.started.is_some() && state.vertex.completed.is_none() {
            let mut event = state.vertex.clone();
            event.completed = Some(SystemTime::now());
            event.error = Some("context canceled".into());
            listener.sink.event(Event::Vertex(event));
        }
    }

    /// The work is done by the vertex of `leader`: its events are this vertex's too, those that there were so far as well.
    pub(crate) fn follow(self: &Arc<Self>, leader: &Self) {
        let mut state = lock(&leader.state);
        if state.followers.iter().any(|f| Arc::ptr_eq(f, self)) {
            return;
        }
        // Nobody holds a follower's lock and wants its leader's.
        let informed: Vec<JobSerial> = state.listeners.iter().map(|l| l.job).collect();
        state.history(|event| self.tell_from_leader(&event, &informed));
        state.followers.push(self.clone());
    }

    /// Ends [`Hub::follow`].
    pub(crate) fn unfollow(self: &Arc<Self>, leader: &Self) {
        lock(&leader.state).followers.retain(|f| !Arc::ptr_eq(f, self));
    }

    pub(crate) fn started(&self, cached: bool) {
        self.change(|v| {
            (v.started, v.completed) = (Some(SystemTime::now()), None);
            (v.cached, v.error) = (cached, None);
            true
        });
    }

    pub(crate) fn completed(&self, error: Option<Arc<str>>) {
        self.change(|v| {
            v.completed = Some(SystemTime::now());
            v.started = v.started.or(v.completed);
            v.cached &= error.is_none();
            v.error = error;
            true
        });
    }

    /// The result was not needed, as a vertex after this one was in the cache. Says whether that is news.
    pub(crate) fn skipped(&self) -> bool {
        self.change(|v| {
            if v.started.is_some() {
                return false;
            }
            v.started = Some(SystemTime::now());
            (v.completed, v.cached) = (v.started, true);
            true
        })
    }

    /// Forgets a failed attempt before another.
    pub(crate) fn forget_failure(&self) {
        let mut state = lock(&self.state);
        if state.vertex.error.is_none() {
            return;
        }
        (state.vertex.started, state.vertex.completed, state.vertex.error) = (None, None, None);
        state.statuses.clear();
        state.logs.clear();
        state.log_bytes = 0;
    }

    fn change(&self, f: impl FnOnce(&mut VertexEvent) -> bool) -> bool {
        let mut state = lock(&self.state);
        let changed = f(&mut state.vertex);
        let event = Event::Vertex(state.vertex.clone());
        if changed {
            self.tell_locked(state, event);
        }
        changed
    }

    /// Tells everybody.
    /// The vertex as it is, without its inputs.
    fn tell_alone(&self) {
        let mut vertex = lock(&self.state).vertex.clone();
        vertex.inputs = Arc::new([]);
        let state = lock(&self.state);
        for listener in &state.listeners {
            listener.sink.event(Event::Vertex(vertex.clone()));
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        self.tell_locked(lock(&self.state), event);
    }

    fn tell_locked(&self, mut state: std::sync::MutexGuard<'_, HubState>, event: Event) {
        state.keep(&event);
        for listener in &state.listeners {
            listener.sink.event(event.clone());
        }
        if state.followers.is_empty() {
            return;
        }
        let followers = state.followers.clone();
        let informed: Vec<JobSerial> = state.listeners.iter().map(|l| l.job).collect();
        drop(state);
        for follower in followers {
            follower.tell_from_leader(&event, &informed);
        }
    }

    /// An event of the leader, as one of this vertex. Jobs that heard the leader itself (`informed`) only hear that
    /// this vertex started and completed.
    fn tell_from_leader(&self, event: &Event, informed: &[JobSerial]) {
        let mut state = lock(&self.state);
        let vertex = self.digest.clone();
        let event = match event.clone() {
            Event::Vertex(v) => {
                let mine = &mut state.vertex;
                (mine.started, mine.completed) = (v.started, v.completed);
                (mine.cached, mine.error) = (v.cached, v.error);
                Event::Vertex(mine.clone())
            }
            Event::Status(s) => Event::Status(StatusEvent { vertex, ..s }),
            Event::Log(l) => Event::Log(LogEvent { vertex, ..l }),
            Event::Warning(w) => Event::Warning(WarningEvent { vertex, ..w }),
            Event::Decision(_) => return,
        };
        state.keep(&event);
        let always = matches!(event, Event::Vertex(_));
        for listener in state.listeners.iter().filter(|l| always || !informed.contains(&l.job)) {
            listener.sink.event(event.clone());
        }
    }
}

impl HubState {
    fn keep(&mut self, event: &Event) {
        match event {
            Event::Vertex(_) => {}
            Event::Status(s) => {
                if self.statuses.len() < HISTORY_ITEMS || self.statuses.contains_key(&s.id) {
                    self.statuses.insert(s.id.clone(), s.clone());
                }
            }
            Event::Log(l) => {
                self.log_bytes += l.data.len();
                self.logs.push_back(l.clone());
                while self.log_bytes > HISTORY_BYTES || self.logs.len() > 16 * HISTORY_ITEMS {
                    let Some(old) = self.logs.pop_front() else { break };
                    self.log_bytes -= old.data.len();
                }
            }
            Event::Warning(w) if self.warnings.len() < HISTORY_ITEMS => self.warnings.push(w.clone()),
            Event::Warning(_) => {}
            Event::Decision(d) if self.decisions.len() < HISTORY_ITEMS => self.decisions.push(d.clone()),
            Event::Decision(_) => {}
        }
    }

    fn replay(&self, sink: &dyn ProgressSink) {
        if self.vertex.started.is_none() {
            sink.event(Event::Vertex(self.vertex.clone()));
        }
        self.history(|event| sink.event(event));
    }

    /// What there was since the vertex was started.
    fn history(&self, tell: impl Fn(Event)) {
        if self.vertex.started.is_some() {
            let begun = VertexEvent { completed: None, error: None, ..self.vertex.clone() };
            tell(Event::Vertex(begun));
        }
        self.statuses.values().for_each(|s| tell(Event::Status(s.clone())));
        self.logs.iter().for_each(|l| tell(Event::Log(l.clone())));
        self.warnings.iter().for_each(|w| tell(Event::Warning(w.clone())));
        self.decisions.iter().for_each(|d| tell(Event::Decision(d.clone())));
        if self.vertex.completed.is_some() {
            tell(Event::Vertex(self.vertex.clone()));
        }
    }
}
