//! Where something stands in a Dockerfile.

use std::fmt;

/// A place in a file: `line` counts from 1, `column` from 0 in bytes of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line number, the first line is 1. 0 means "unknown": text that was in no file.
    pub line: u32,
    /// Byte offset in the line.
    pub column: u32,
}

impl Position {
    /// A position from its line (from 1) and its column (from 0).
    #[must_use]
    pub fn new(line: u32, column: u32) -> Self {
        Self { line, column }
    }
}

/// A stretch of a file, possibly over several lines. `end` is the position after the last byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: Position,
    /// After the last byte.
    pub end: Position,
}

impl Span {
    /// A span from its two ends.
    #[must_use]
    pub fn new(start: Position, end: Position) -> Self {
        Self { start, end }
    }

    /// The start of one line, with no width.
    #[must_use]
    pub fn line(line: u32) -> Self {
        Self::new(Position::new(line, 0), Position::new(line, 0))
    }

    /// Whether the span stands in a file at all (a command that an ONBUILD trigger brought does not).
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.start.line > 0
    }

    /// The lines the span touches, both ends included; empty when the span is not known.
    ///
    /// On the wire BuildKit names each line of a command by a range of its own.
    #[must_use]
    pub fn lines(&self) -> std::ops::RangeInclusive<u32> {
        if self.is_known() {
            self.start.line..=self.end.line.max(self.start.line)
        } else {
            #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what is meant")]
            {
                1..=0
            }
        }
    }

    /// The smallest span that covers both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        if !self.is_known() {
            return other;
        }
        if !other.is_known() {
            return self;
        }
        Self::new(self.start.min(other.start), self.end.max(other.end))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start.line, self.start.column + 1)
    }
}
