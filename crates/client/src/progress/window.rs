//! The last lines of a log, as a terminal would show them: colours dropped, a carriage return starts the line anew.

use std::collections::VecDeque;

/// A line longer than this is cut, in characters.
const MAX_LINE: usize = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Escape,
    /// Inside `ESC [ …`, which a letter ends.
    Control,
    /// Inside `ESC ] …`, which a bell or another escape ends.
    Title,
}

/// The last lines of a log.
#[derive(Debug, Default)]
pub(super) struct Window {
    height: usize,
    lines: VecDeque<String>,
    state: State,
    /// The next character overwrites the line.
    rewind: bool,
    /// The last line has ended.
    ended: bool,
}

impl Window {
    pub(super) fn new(height: usize) -> Self {
        Self { height, ended: true, ..Self::default() }
    }

    /// Takes text as a process wrote it.
    pub(super) fn write(&mut self, text: &str) {
        for c in text.chars() {
            self.state = match (self.state, c) {
                (State::Text, '\x1b') => State::Escape,
                (State::Text, _) => {
                    self.put(c);
                    State::Text
                }
                (State::Escape, '[') => State::Control,
                (State::Escape, ']') => State::Title,
                (State::Escape, _) => State::Text,
                (State::Control, '@'..='~') => State::Text,
                (State::Title, '\x07') => State::Text,
                (State::Title, '\x1b') => State::Escape,
                (state, _) => state,
            };
        }
    }

    fn put(&mut self, c: char) {
        match c {
            '\n' => {
                if std::mem::replace(&mut self.ended, true) {
                    self.push();
                }
                self.rewind = false;
            }
            '\r' => self.rewind = true,
            '\t' => "    ".chars().for_each(|c| self.append(c)),
            c if c.is_control() => {}
            c => self.append(c),
        }
    }

    fn append(&mut self, c: char) {
        if std::mem::replace(&mut self.ended, false) {
            self.push();
        }
        if let Some(line) = self.lines.back_mut() {
            if std::mem::replace(&mut self.rewind, false) {
                line.clear();
            }
            if line.len() < MAX_LINE {
                line.push(c);
            }
        }
    }

    fn push(&mut self) {
        self.rewind = false;
        self.lines.push_back(String::new());
        if self.lines.len() > self.height {
            self.lines.pop_front();
        }
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let mut window = Window::new(3);
        window.write(text);
        window.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_last_lines_stay() {
        assert_eq!(shown("a\nb\nc\nd\n"), ["b", "c", "d"]);
        assert_eq!(shown("a\n\nb"), ["a", "", "b"]);
    }

    #[test]
    fn a_carriage_return_overwrites() {
        assert_eq!(shown("10%\r20%\r\ndone"), ["20%", "done"]);
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(shown("\x1b[31mred\x1b[0m \x1b]0;title\x07x\x08y\tz"), ["red xy    z"]);
    }
}
