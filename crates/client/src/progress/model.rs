//! What is known of a build, gathered from its events.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Instant,
};

use kiln_proto::control::{StatusResponse, Vertex as Event, VertexLog, VertexStatus};

use super::{
    time::{Nanos, nanos, now, seconds},
    window::Window,
};

/// Lines of a step's log that are kept for the end.
const TAIL: usize = 10;

/// An error of a step that somebody else's end ended.
pub(super) fn is_canceled(error: &str) -> bool {
    error.ends_with("context canceled")
}

/// A time span; the end is open while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) start: Nanos,
    pub(super) stop: Option<Nanos>,
}

/// Joins intervals that overlap; what follows an open one is part of it.
fn merge(intervals: &BTreeMap<Nanos, Option<Nanos>>) -> Vec<Interval> {
    let mut merged: Vec<Interval> = Vec::new();
    for (&start, &stop) in intervals {
        match merged.last_mut() {
            Some(Interval { stop: None, .. }) => break,
            Some(Interval { stop: Some(last), .. }) if *last >= start => match stop {
                Some(stop) => *last = (*last).max(stop),
                None => merged.last_mut().into_iter().for_each(|i| i.stop = None),
            },
            _ => merged.push(Interval { start, stop }),
        }
    }
    merged
}

/// Part of a step that has a measure, such as a transfer.
#[derive(Clone, Debug, Default)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) current: i64,
    pub(super) total: i64,
    pub(super) time: Nanos,
    pub(super) started: Option<Nanos>,
    pub(super) completed: Option<Nanos>,
    /// It changed since it was looked at.
    pub(super) changed: bool,
    /// As it was printed last.
    pub(super) printed: Option<(i64, Nanos)>,
}

/// Lines of a log that are still to be printed.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Whole lines, with the time before the text.
    pub(super) lines: Vec<String>,
    /// A line that has not ended.
    pub(super) open: Option<String>,
    /// Bytes of the first line, or of the open one, that are on the screen already.
    pub(super) printed: usize,
}

/// A step, or a group of steps that is shown as one.
pub(super) struct Vertex {
    pub(super) name: String,
    pub(super) cached: bool,
    pub(super) error: String,
    pub(super) intervals: Vec<Interval>,
    pub(super) items: Vec<Item>,
    pub(super) log: Log,
    pub(super) window: Window,
    /// Short texts of warnings that are still to be printed.
    pub(super) warnings: Vec<String>,
    /// The number that it is shown with.
    pub(super) number: usize,
    /// How much happened that is not shown, and since when.
    pub(super) backlog: u32,
    pub(super) waiting_since: Instant,
    pub(super) hidden: bool,
    spans: BTreeMap<Nanos, Option<Nanos>>,
    tail: VecDeque<String>,
    /// Of a group: its members by digest.
    members: BTreeMap<String, Event>,
}

impl Vertex {
    fn new(name: &str, log_lines: usize) -> Self {
        Self {
            name: name.to_owned(),
            cached: false,
            error: String::new(),
            intervals: Vec::new(),
            items: Vec::new(),
            log: Log::default(),
            window: Window::new(log_lines),
            warnings: Vec::new(),
            number: 0,
            backlog: 0,
            waiting_since: Instant::now(),
            hidden: false,
            spans: BTreeMap::new(),
            tail: VecDeque::new(),
            members: BTreeMap::new(),
        }
    }

    pub(super) fn is_started(&self) -> bool {
        !self.intervals.is_empty()
    }

    /// When it ended, if it has.
    pub(super) fn completed(&self) -> Option<Nanos> {
        self.intervals.last().and_then(|interval| interval.stop)
    }

    pub(super) fn is_completed(&self) -> bool {
        self.completed().is_some()
    }

    /// Seconds that it has taken so far.
    pub(super) fn duration(&self, now: Nanos) -> f64 {
        self.intervals.iter().map(|i| seconds(i.stop.unwrap_or(now) - i.start)).sum()
    }

    /// The last lines of its log.
    pub(super) fn tail(&self) -> impl Iterator<Item = &String> {
        self.tail.iter().chain(&self.log.open)
    }

    fn touch(&mut self) {
        if self.backlog == 0 {
            self.waiting_since = Instant::now();
        }
        self.backlog += 1;
    }

    /// Takes news of the step. True if anything that is shown changed.
    fn take(&mut self, event: &Event) -> bool {
        let Some(started) = &event.started else {
            if !self.is_started() {
                self.name.clone_from(&event.name);
            }
            return false;
        };
        let span = (nanos(started), event.completed.as_ref().map(nanos));
        let changed = self.name != event.name
            || self.cached != event.cached
            || self.error != event.error
            || self.spans.get(&span.0) != Some(&span.1);
        self.name.clone_from(&event.name);
        self.cached = event.cached;
        self.error.clone_from(&event.error);
        self.spans.insert(span.0, span.1);
        self.intervals = merge(&self.spans);
        changed
    }

    /// Takes news of a member of the group. True if anything that is shown changed.
    fn take_member(&mut self, event: &Event) -> bool {
        self.members.insert(event.digest.clone(), event.clone());
        let before = (self.cached, self.error.clone(), self.intervals.clone(), self.hidden);
        for member in self.members.values() {
            let Some(started) = &member.started else { continue };
            self.spans.insert(nanos(started), member.completed.as_ref().map(nanos));
            if !member.progress_group.as_ref().is_some_and(|group| group.weak) {
                self.hidden = false;
            }
        }
        self.cached = self.members.values().all(|member| member.cached);
        self.error =
            self.members.values().map(|m| m.error.clone()).find(|e| !e.is_empty()).unwrap_or_default();
        self.hidden &= self.error.is_empty();
        self.intervals = merge(&self.spans);
        before != (self.cached, self.error.clone(), self.intervals.clone(), self.hidden)
    }

    fn take_log(&mut self, log: &VertexLog) {
        let at = log.timestamp.as_ref().map_or_else(|| nanos(&now()), nanos);
        let since = self.intervals.last().map_or(at, |interval| interval.start);
        let prefix = log_time(seconds(at - since));
        let text = String::from_utf8_lossy(&log.msg);
        self.window.write(&text);
        for piece in text.split_inclusive('\n') {
            let mut line = self.log.open.take().unwrap_or_else(|| format!("{prefix} "));
            match piece.strip_suffix('\n') {
                None => {
                    line.push_str(piece);
                    self.log.open = Some(line);
                }
                Some(rest) => {
                    line.push_str(rest);
                    self.tail.push_back(line.clone());
                    if self.tail.len() > TAIL {
                        self.tail.pop_front();
                    }
                    self.log.lines.push(line);
                }
            }
        }
    }

    fn take_status(&mut self, status: &VertexStatus) {
        let index = self.items.iter().position(|item| item.id == status.id).unwrap_or_else(|| {
            self.items.push(Item { id: status.id.clone(), ..Item::default() });
            self.items.len() - 1
        });
        let item = &mut self.items[index];
        item.current = status.current;
        item.total = status.total;
        item.time = status.timestamp.as_ref().map_or_else(|| nanos(&now()), nanos);
        item.started = status.started.as_ref().map(nanos);
        item.completed = status.completed.as_ref().map(nanos);
        item.changed = true;
    }
}

/// The time before a line of a log: three digits in all, more or less.
fn log_time(seconds: f64) -> String {
    let digits = match seconds {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.digits$}")
}

/// Everything that is known.
pub(super) struct Model {
    /// In no order that matters; ids are indexes.
    pub(super) vertexes: Vec<Vertex>,
    /// Those that have something new to show.
    pub(super) updated: BTreeSet<usize>,
    /// Those that are shown, as they began.
    order: Vec<usize>,
    by_digest: HashMap<String, usize>,
    by_group: HashMap<String, usize>,
    log_lines: usize,
}

impl Model {
    pub(super) fn new(log_lines: usize) -> Self {
        Self {
            vertexes: Vec::new(),
            updated: BTreeSet::new(),
            order: Vec::new(),
            by_digest: HashMap::new(),
            by_group: HashMap::new(),
            log_lines,
        }
    }

    /// Steps that are shown, as they began.
    pub(super) fn shown(&self) -> impl DoubleEndedIterator<Item = &Vertex> {
        self.order.iter().map(|id| &self.vertexes[*id]).filter(|vertex| !vertex.hidden)
    }

    /// How many steps are known.
    pub(super) fn len(&self) -> usize {
        self.vertexes.iter().filter(|vertex| !vertex.hidden).count()
    }

    /// Takes an event.
    pub(super) fn update(&mut self, event: &StatusResponse) {
        for vertex in &event.vertexes {
            self.update_vertex(vertex);
        }
        for status in &event.statuses {
            self.with(&status.vertex, |vertex| vertex.take_status(status));
        }
        for warning in &event.warnings {
            let short = String::from_utf8_lossy(&warning.short).into_owned();
            self.with(&warning.vertex, |vertex| vertex.warnings.push(short));
        }
        for log in &event.logs {
            self.with(&log.vertex, |vertex| vertex.take_log(log));
        }
    }

    fn with(&mut self, digest: &str, act: impl FnOnce(&mut Vertex)) {
        // What belongs to no step that we know is not shown.
        if let Some(&id) = self.by_digest.get(digest) {
            act(&mut self.vertexes[id]);
            self.vertexes[id].touch();
            self.updated.insert(id);
        }
    }

    fn update_vertex(&mut self, event: &Event) {
        let id = self.id_of(event);
        let vertex = &mut self.vertexes[id];
        let was_shown = vertex.is_started() && !vertex.hidden;
        let changed = match event.progress_group {
            Some(_) => vertex.take_member(event),
            None => vertex.take(event),
        };
        if changed {
            vertex.touch();
            self.updated.insert(id);
        }
        if !was_shown && vertex.is_started() && !vertex.hidden && !self.order.contains(&id) {
            self.order.push(id);
        }
    }

    fn id_of(&mut self, event: &Event) -> usize {
        if let Some(&id) = self.by_digest.get(&event.digest) {
            return id;
        }
        let fresh = self.vertexes.len();
        let id = match &event.progress_group {
            Some(group) => *self.by_group.entry(group.id.clone()).or_insert(fresh),
            None => fresh,
        };
        if id == fresh {
            let mut vertex = Vertex::new(&event.name, self.log_lines);
            if let Some(group) = &event.progress_group {
                vertex.name.clone_from(&group.name);
                // A group that is weak in all its members is not worth a line.
                vertex.hidden = true;
            }
            self.vertexes.push(vertex);
        }
        self.by_digest.insert(event.digest.clone(), id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_that_touch_are_one() {
        let spans = BTreeMap::from([(0, Some(5)), (3, Some(8)), (10, Some(11)), (11, None), (20, Some(30))]);
        assert_eq!(merge(&spans), [Interval { start: 0, stop: Some(8) }, Interval { start: 10, stop: None }]);
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut vertex = Vertex::new("x", 6);
        for piece in ["a", "b\nc\n", "d"] {
            vertex.take_log(&VertexLog { msg: piece.into(), ..VertexLog::default() });
        }
        assert_eq!(vertex.log.lines, ["0.000 ab", "0.000 c"]);
        assert_eq!(vertex.log.open.as_deref(), Some("0.000 d"));
        assert_eq!(vertex.tail().count(), 3);
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!(log_time(1.23456), "1.235");
        assert_eq!(log_time(12.3456), "12.35");
        assert_eq!(log_time(123.456), "123.5");
    }
}
