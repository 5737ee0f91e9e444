//! Progress drawn over itself.
//!
//! ```text
//!   [+] Building 3.2s (4/7)
//!    => CACHED [1/3] FROM docker.io/library/busybox                     0.0s
//!    => [2/3] RUN make                                                  2.1s
//!    => => # cc -c a.c                                      the end of a running step's log
//!    => => sha256:0a1b…  3.10MB / 8.00MB                                1.0s
//! ```
//! When there are more rows than the terminal has, those of steps that ended go first.

use std::io::{self, Write};

use kiln_proto::control::StatusResponse;

use super::{
    Style, View, ansi,
    model::{Item, Model, Vertex, is_canceled},
    terminal,
    time::{Nanos, nanos, now, seconds},
    write_failures,
};

/// Columns for the seconds at the end of a row.
const TIME_WIDTH: usize = 8;

/// The view.
pub(super) struct Tty<W> {
    out: W,
    style: Style,
    model: Model,
    started: Option<Nanos>,
    /// Rows that are on the screen.
    drawn: usize,
}

/// One row, before it is cut to the terminal's width.
struct Row {
    text: String,
    seconds: Option<f64>,
    color: Option<String>,
    /// It may be left out when there is no room.
    ended: bool,
}

impl<W: Write + Send> View for Tty<W> {
    fn update(&mut self, event: &StatusResponse) -> io::Result<()> {
        if self.started.is_none() {
            self.started = event.vertexes.iter().find_map(|v| v.started.as_ref()).map(nanos);
        }
        self.model.update(event);
        Ok(())
    }

    fn refresh(&mut self) -> io::Result<()> {
        let (columns, rows) = terminal::size();
        self.draw(columns, Some(rows), false)
    }

    fn finish(&mut self) -> io::Result<()> {
        let (columns, _) = terminal::size();
        self.draw(columns, None, true)?;
        write_failures(&mut self.out, &self.model)
    }
}

impl<W: Write + Send> Tty<W> {
    pub(super) fn new(out: W, style: Style) -> Self {
        Self { out, model: Model::new(style.log_lines), style, started: None, drawn: 0 }
    }

    fn draw(&mut self, columns: usize, rows: Option<usize>, last: bool) -> io::Result<()> {
        let Some(started) = self.started else { return Ok(()) };
        let now = nanos(&now());
        let mut text = String::from(ansi::HIDE_CURSOR);
        text.push_str(&ansi::up(self.drawn));
        let done = self.model.shown().filter(|v| v.is_completed()).count();
        let header = format!("[+] Building {:.1}s ({done}/{})", seconds(now - started), self.model.len());
        text.push_str(&cut(&header, columns));
        if last {
            text.push_str(" FINISHED");
        }
        text.push_str(ansi::CLEAR_LINE);
        text.push('\n');
        let all = self.rows(now, last);
        let shown = fit(all, rows.map(|rows| rows.saturating_sub(2)));
        for row in &shown {
            self.write_row(&mut text, row, columns);
        }
        text.push_str(ansi::CLEAR_BELOW);
        text.push_str(ansi::SHOW_CURSOR);
        self.drawn = shown.len() + 1;
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn write_row(&self, text: &mut String, row: &Row, columns: usize) {
        let color = self.style.colors.as_ref().and(row.color.as_deref());
        let width = columns.saturating_sub(TIME_WIDTH);
        text.push_str(color.unwrap_or_default());
        match row.seconds {
            Some(seconds) => {
                let left = cut(&row.text, width);
                let pad = width.saturating_sub(left.chars().count());
                let time = format!("{seconds:.1}s");
                text.push_str(&left);
                text.push_str(&" ".repeat(pad));
                text.push_str(&format!("{time:>TIME_WIDTH$}"));
            }
            None => text.push_str(&cut(&row.text, columns)),
        }
        if color.is_some() {
            text.push_str(ansi::RESET);
        }
        text.push_str(ansi::CLEAR_LINE);
        text.push('\n');
    }

    fn rows(&self, now: Nanos, last: bool) -> Vec<Row> {
        let mut rows = Vec::new();
        for vertex in self.model.shown() {
            let ended = vertex.is_completed();
            rows.push(self.vertex_row(vertex, now));
            let items = vertex.items.iter().filter(|item| item.started.is_some());
            rows.extend(items.map(|item| self.item_row(item, now, ended)));
            if !ended && !last {
                let faint = self.style.colors.is_some().then(|| ansi::FAINT.to_owned());
                let log = |line: &str| Row {
                    text: format!(" => => # {line}"),
                    seconds: None,
                    color: faint.clone(),
                    ended: false,
                };
                rows.extend(vertex.window.lines().map(log));
            }
        }
        rows
    }

    fn vertex_row(&self, vertex: &Vertex, now: Nanos) -> Row {
        let ended = vertex.is_completed();
        let colors = self.style.colors.clone().unwrap_or_default();
        let (prefix, color) = if is_canceled(&vertex.error) {
            ("CANCELED ", Some(colors.cancel))
        } else if !vertex.error.is_empty() {
            ("ERROR ", Some(colors.error))
        } else if vertex.cached {
            ("CACHED ", Some(colors.run))
        } else {
            ("", ended.then_some(colors.run))
        };
        let text = format!(" => {prefix}{}", clean(&vertex.name));
        Row { text, seconds: Some(vertex.duration(now)), color, ended }
    }

    fn item_row(&self, item: &Item, now: Nanos, ended: bool) -> Row {
        let done = item.completed.is_some();
        let taken = item.started.map_or(0.0, |started| seconds(item.completed.unwrap_or(now) - started));
        let color = self.style.colors.as_ref().filter(|_| done).map(|colors| colors.run.clone());
        let text = format!(" => => {}{}", clean(&item.id), item.measure());
        Row { text, seconds: Some(taken), color, ended: ended || done }
    }
}

/// Leaves out rows of what has ended, and then the first of what has not, until the rest fits.
fn fit(mut rows: Vec<Row>, limit: Option<usize>) -> Vec<Row> {
    let Some(limit) = limit else { return rows };
    let mut excess = rows.len().saturating_sub(limit);
    rows.retain(|row| {
        let drop = excess > 0 && row.ended;
        excess -= usize::from(drop);
        !drop
    });
    rows.drain(..excess.min(rows.len()));
    rows
}

/// The first columns of a text.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns).collect()
}

/// A name without anything that a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, ended: bool) -> Row {
        Row { text: text.into(), seconds: None, color: None, ended }
    }

    #[test]
    fn what_has_ended_makes_room() {
        let rows = vec![row("a", true), row("b", false), row("c", true), row("d", false)];
        let texts: Vec<_> = fit(rows, Some(3)).into_iter().map(|r| r.text).collect();
        assert_eq!(texts, ["b", "c", "d"]);
        let rows = vec![row("a", false), row("b", true), row("c", false)];
        let texts: Vec<_> = fit(rows, Some(1)).into_iter().map(|r| r.text).collect();
        assert_eq!(texts, ["c"]);
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\nc"), "a [2Jb c");
        assert_eq!(cut("äöü", 2), "äö");
    }
}
