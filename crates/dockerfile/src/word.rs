//! A piece of an instruction's text that knows where it was written.

use std::fmt;
use std::ops::Deref;

use bytestring::ByteString;

use crate::span::{Position, Span};

/// Text of an argument or a flag's value, with its place in the file.
///
/// As long as the text is what was written, it shares the memory of its line (that of the whole file, or that of the lines
/// joined), and a clone costs a counter. Expansion replaces the text and leaves the span: errors and warnings after it still
/// point to what the user wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Word {
    /// The text: as written, or after expansion.
    pub text: ByteString,
    /// Where it was written.
    pub span: Span,
}

impl Word {
    /// A word at a place.
    pub fn new(text: impl Into<ByteString>, span: Span) -> Self {
        Self { text: text.into(), span }
    }

    /// The text as a string slice.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for Word {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A word that stands in no file.
impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self::new(text, Span::default())
    }
}

/// A word that stands in no file.
impl From<String> for Word {
    fn from(text: String) -> Self {
        Self::new(text, Span::default())
    }
}

impl PartialEq<str> for Word {
    fn eq(&self, other: &str) -> bool {
        *self.text == *other
    }
}

impl PartialEq<&str> for Word {
    fn eq(&self, other: &&str) -> bool {
        *self.text == **other
    }
}

impl Word {
    /// The places of what stands before and after the one-byte separator at `at`, when the word is as written and on
    /// one line; else the whole word's place twice.
    pub(crate) fn split_span(&self, at: usize) -> (Span, Span) {
        split_span(&self.text, self.span, at)
    }
}

impl Word {
    /// Part of this word: a slice of its text.
    pub(crate) fn part(&self, part: &str, span: Span) -> Self {
        Self::new(self.text.slice_ref(part), span)
    }
}

/// [`Word::split_span`] of a word that isn't one yet.
pub(crate) fn split_span(text: &str, span: Span, at: usize) -> (Span, Span) {
    let Span { start, end } = span;
    let width = u32::try_from(text.len()).ok();
    match u32::try_from(at) {
        Ok(at) if start.line == end.line && end.column.checked_sub(start.column) == width => {
            let middle = Position::new(start.line, start.column + at);
            let after = Position::new(start.line, start.column + at + 1);
            (Span::new(start, middle), Span::new(after, end))
        }
        _ => (span, span),
    }
}
