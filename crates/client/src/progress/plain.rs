//! Progress as lines that stay.
//!
//! ```text
//!   #1 [internal] load build definition from Dockerfile
//!   #1 transferring dockerfile: 31B done
//!   #1 DONE 0.0s
//!                                        an empty line where another step goes on
//!   #2 [1/2] RUN make
//!   #2 0.153 cc -c a.c                   its log, with seconds since the step began
//!   #2 ...                               left while it runs, and taken up again as "#2 [1/2] RUN make"
//! ```
//! One step is open at a time. A step that has ended is told at once and whole; of those that run, the one with most to tell is
//! open, but none waits for longer than ten seconds, and none is left within moments.

use std::{
    io::{self, Write},
    time::Duration,
};

use kiln_proto::control::StatusResponse;

use super::{
    Style, View,
    model::{Item, Model, Vertex, is_canceled},
    time::{nanos, now, seconds},
    write_failures,
};
use crate::units::size;

/// A step that has waited for so long comes next.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// A step stays open for about so long when another has as much to tell.
const STAY: f64 = 5.0;
/// A measure is printed again when it has grown by this share of its total,
const MIN_GROWTH: f64 = 0.05;
/// or after so many seconds.
const MIN_SECONDS: f64 = 5.0;
/// Where names are cut, in bytes, if they are.
const MAX_NAME: usize = 72;

/// The view.
pub(super) struct Plain<W> {
    out: W,
    style: Style,
    model: Model,
    /// The step that is open.
    current: Option<usize>,
    /// Steps that have been shown.
    numbered: usize,
}

impl<W: Write + Send> View for Plain<W> {
    fn update(&mut self, event: &StatusResponse) -> io::Result<()> {
        self.model.update(event);
        Ok(())
    }

    fn refresh(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        self.print(&mut text)?;
        self.out.write_all(&text)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.refresh()?;
        write_failures(&mut self.out, &self.model)
    }
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(out: W, style: Style) -> Self {
        Self { out, model: Model::new(style.log_lines), style, current: None, numbered: 0 }
    }

    /// Prints what is new, in the order that the module's comment says.
    fn print(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let visible = |id: &usize| !self.model.vertexes[*id].hidden && self.model.vertexes[*id].is_started();
        let updated = self.model.updated.iter().copied().filter(visible);
        let (mut ended, mut running): (Vec<usize>, Vec<usize>) =
            updated.partition(|id| self.model.vertexes[*id].is_completed());
        let current = self.current;
        let current_ended = current.is_some_and(|id| ended.contains(&id));
        ended.sort_by_key(|id| (Some(*id) != current, self.model.vertexes[*id].completed()));
        for id in ended {
            self.show(id, out)?;
        }
        if running.is_empty() {
            if current.is_none_or(|id| self.model.vertexes[id].is_completed()) {
                let open = |v: &Vertex| v.is_started() && !v.is_completed() && !v.hidden;
                if let Some(id) = self.model.vertexes.iter().position(open) {
                    self.show(id, out)?;
                }
            }
            return Ok(());
        }
        if let Some(id) = current.filter(|id| running.contains(id)) {
            self.show(id, out)?;
        }
        running.extend(current.filter(|id| !running.contains(id)));
        match self.next(&running, current.filter(|_| !current_ended)) {
            Some(id) => self.show(id, out),
            None => Ok(()),
        }
    }

    /// Which of the running steps is to be opened, if the open one is to be left.
    fn next(&self, running: &[usize], current: Option<usize>) -> Option<usize> {
        let wait = |id: usize| self.model.vertexes[id].waiting_since.elapsed();
        let speed = |id: usize| f64::from(self.model.vertexes[id].backlog) / wait(id).as_secs_f64().max(1e-6);
        let overdue = running.iter().copied().find(|id| Some(*id) != current && wait(*id) > MAX_WAIT);
        let busiest = running.iter().copied().max_by(|a, b| speed(*a).total_cmp(&speed(*b)));
        let Some(current) = current else { return overdue.or(busiest) };
        if overdue.is_some() {
            return overdue;
        }
        let total: f64 = running.iter().map(|id| speed(*id)).sum();
        let share = if total > 0.0 { speed(current) / total } else { 1.0 };
        let patience = STAY / (1.0 - share);
        (patience < wait(current).as_secs_f64()).then_some(busiest).flatten()
    }

    /// Prints all that a step has to tell.
    fn show(&mut self, id: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.open(id, out)?;
        let vertex = &mut self.model.vertexes[id];
        let mut item_open = false;
        for item in vertex.items.iter_mut().filter(|item| item.changed && item.started.is_some()) {
            if item.is_due() {
                writeln!(out, "#{} {}", vertex.number, item.line())?;
                item.printed = Some((item.current, item.time));
            }
            item_open |= item.completed.is_none();
            item.changed = false;
        }
        for warning in vertex.warnings.drain(..) {
            writeln!(out, "#{} WARN: {warning}", vertex.number)?;
        }
        print_log(vertex, out)?;
        self.current = Some(id);
        if vertex.is_completed() && !item_open {
            close(vertex, out)?;
            self.current = None;
        }
        self.model.updated.remove(&id);
        Ok(())
    }

    /// Leaves the step that is open, if it is another, and says which comes.
    fn open(&mut self, id: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if self.model.vertexes[id].number == 0 {
            self.numbered += 1;
            self.model.vertexes[id].number = self.numbered;
        }
        if self.current == Some(id) {
            return Ok(());
        }
        if let Some(left) = self.current {
            let left = &mut self.model.vertexes[left];
            if std::mem::take(&mut left.log.printed) > 0 {
                writeln!(out)?;
            }
            left.backlog = 0;
            writeln!(out, "#{} ...", left.number)?;
        }
        if let Some(header) = self.style.header.take() {
            writeln!(out, "#0 {header}\n")?;
        } else if self.numbered > 1 || self.current.is_some() {
            writeln!(out)?;
        }
        let vertex = &self.model.vertexes[id];
        match vertex.name.get(..MAX_NAME).filter(|_| self.style.truncate && vertex.name.len() > MAX_NAME) {
            Some(start) => writeln!(out, "#{} {start}...", vertex.number),
            None => writeln!(out, "#{} {}", vertex.number, vertex.name),
        }
    }
}

/// Prints lines that have come, and what there is of the next.
fn print_log(vertex: &mut Vertex, out: &mut Vec<u8>) -> io::Result<()> {
    let number = vertex.number;
    let log = &mut vertex.log;
    for line in std::mem::take(&mut log.lines) {
        match std::mem::take(&mut log.printed) {
            0 => writeln!(out, "#{number} {line}")?,
            printed => writeln!(out, "{}", line.get(printed..).unwrap_or_default())?,
        }
    }
    if let Some(open) = &log.open {
        match log.printed {
            0 => write!(out, "#{number} {open}")?,
            printed => write!(out, "{}", open.get(printed..).unwrap_or_default())?,
        }
        log.printed = open.len();
    }
    Ok(())
}

/// Prints how a step ended.
fn close(vertex: &mut Vertex, out: &mut Vec<u8>) -> io::Result<()> {
    vertex.backlog = 0;
    if std::mem::take(&mut vertex.log.printed) > 0 {
        vertex.log.open = None;
        writeln!(out)?;
    }
    let number = vertex.number;
    if is_canceled(&vertex.error) {
        writeln!(out, "#{number} CANCELED")
    } else if !vertex.error.is_empty() {
        writeln!(out, "#{number} ERROR: {}", vertex.error)
    } else if vertex.cached {
        writeln!(out, "#{number} CACHED")
    } else {
        writeln!(out, "#{number} DONE {:.1}s", vertex.duration(nanos(&now())))
    }
}

impl Item {
    /// It has changed enough to be printed again.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than a few digits")]
    fn is_due(&self) -> bool {
        let Some((current, time)) = self.printed else { return true };
        let growth = if self.total > 0 { (self.current - current) as f64 / self.total as f64 } else { 0.0 };
        self.completed.is_some() || growth >= MIN_GROWTH || seconds(self.time - time) >= MIN_SECONDS
    }

    /// `id 1.00kB / 2.00kB 0.1s done`
    pub(super) fn line(&self) -> String {
        let mut line = self.id.clone();
        line.push_str(&self.measure());
        if let Some(started) = self.started {
            let taken = seconds(self.completed.unwrap_or(self.time) - started);
            if taken > 0.01 {
                line.push_str(&format!(" {taken:.1}s"));
            }
        }
        if self.completed.is_some() {
            line.push_str(" done");
        }
        line
    }

    /// ` 1.00kB / 2.00kB`, or what there is of it.
    pub(super) fn measure(&self) -> String {
        match (self.current, self.total) {
            (0, 0) => String::new(),
            (current, 0) => format!(" {}", size(current, 2)),
            (current, total) => format!(" {} / {}", size(current, 2), size(total, 2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_proto::control::{Vertex as Event, VertexLog, VertexStatus, VertexWarning};

    use super::*;
    use crate::progress::time::timestamp;

    const SECOND: i64 = 1_000_000_000;

    fn event(digest: &str, started: i64, completed: Option<i64>) -> Event {
        Event {
            digest: digest.into(),
            name: format!("step {digest}"),
            started: Some(timestamp(started * SECOND)),
            completed: completed.map(|c| timestamp(c * SECOND)),
            ..Event::default()
        }
    }

    fn log(digest: &str, at: i64, text: &str) -> VertexLog {
        let timestamp = Some(timestamp(at * SECOND));
        VertexLog { vertex: digest.into(), timestamp, stream: 1, msg: text.to_owned().into() }
    }

    fn of(vertexes: Vec<Event>, logs: Vec<VertexLog>) -> StatusResponse {
        StatusResponse { vertexes, logs, ..StatusResponse::default() }
    }

    fn shown(events: Vec<StatusResponse>) -> String {
        let mut view = Plain::new(Vec::new(), Style::default());
        for event in events {
            view.update(&event).unwrap();
            view.refresh().unwrap();
        }
        view.finish().unwrap();
        String::from_utf8(view.out).unwrap()
    }

    #[test]
    fn a_step_tells_its_name_its_log_and_its_end() {
        let text = shown(vec![
            of(vec![event("a", 10, None)], vec![log("a", 11, "one\ntw")]),
            of(vec![event("a", 10, Some(13))], vec![log("a", 12, "o\n")]),
        ]);
        assert_eq!(text, "#1 step a\n#1 1.000 one\n#1 1.000 two\n#1 DONE 3.0s\n");
    }

    #[test]
    fn the_open_step_is_left_when_another_ends() {
        let cached = Event { cached: true, ..event("b", 1, Some(1)) };
        let text = shown(vec![
            of(vec![event("a", 0, None)], vec![log("a", 1, "part")]),
            of(vec![cached], vec![]),
            of(vec![event("a", 0, Some(2))], vec![]),
        ]);
        assert_eq!(
            text,
            "#1 step a\n#1 1.000 part\n#1 ...\n\n#2 step b\n#2 CACHED\n\n#1 step a\n#1 1.000 part\n#1 DONE 2.0s\n"
        );
    }

    #[test]
    fn a_failure_is_told_twice_and_a_cancellation_once() {
        let failed = Event { error: "exit code: 1".into(), ..event("a", 0, Some(1)) };
        let canceled = Event { error: "x: context canceled".into(), ..event("b", 0, Some(1)) };
        let text = shown(vec![
            of(vec![event("a", 0, None), event("b", 0, None)], vec![]),
            of(vec![failed, canceled], vec![log("a", 1, "why\n")]),
        ]);
        assert!(text.contains("ERROR: exit code: 1\n"), "{text}");
        assert!(text.contains("CANCELED\n"), "{text}");
        assert!(text.ends_with("------\n > step a:\n1.000 why\n------\n"), "{text}");
        assert!(!text.contains(" > step b"), "{text}");
    }

    #[test]
    fn measures_are_told_when_they_have_grown() {
        let status = |current, at: i64, done: bool| VertexStatus {
            id: "layer".into(),
            vertex: "a".into(),
            current,
            total: 1000,
            timestamp: Some(timestamp(at * SECOND)),
            started: Some(timestamp(0)),
            completed: done.then(|| timestamp(at * SECOND)),
            ..VertexStatus::default()
        };
        let statuses = |s| StatusResponse { statuses: vec![s], ..StatusResponse::default() };
        let text = shown(vec![
            of(vec![event("a", 0, None)], vec![]),
            statuses(status(10, 1, false)),
            statuses(status(20, 1, false)),
            statuses(status(500, 1, false)),
            statuses(status(1000, 2, true)),
            of(vec![event("a", 0, Some(2))], vec![]),
        ]);
        assert_eq!(
            text,
            "#1 step a\n#1 layer 10B / 1.00kB 1.0s\n#1 layer 500B / 1.00kB 1.0s\n#1 layer 1.00kB / 1.00kB 2.0s done\n#1 DONE 2.0s\n"
        );
    }

    #[test]
    fn warnings_are_told_with_their_step() {
        let warning =
            VertexWarning { vertex: "a".into(), short: "beware".into(), ..VertexWarning::default() };
        let event = StatusResponse {
            vertexes: vec![event("a", 0, Some(0))],
            warnings: vec![warning],
            ..StatusResponse::default()
        };
        assert_eq!(shown(vec![event]), "#1 step a\n#1 WARN: beware\n#1 DONE 0.0s\n");
    }
}
