//! What went wrong in a Dockerfile, where, and what was expected instead.

use std::fmt;

use crate::span::{Position, Span};
use crate::word::Word;

/// Which part of the work refused the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Lines, directives, heredocs, quotes: the text is no Dockerfile.
    Syntax,
    /// A keyword that is no instruction.
    UnknownInstruction,
    /// A flag the instruction doesn't have, has twice, or that lacks its value.
    Flag,
    /// Arguments that the instruction doesn't take.
    Argument,
    /// A variable could not be expanded.
    Expansion,
    /// A lint warning that `check=error=true` made an error.
    Lint,
    /// The instruction is well formed but cannot be built.
    Convert,
}

impl ErrorKind {
    /// The text is no Dockerfile. Other errors come of what it says.
    fn is_of_parser(self) -> bool {
        matches!(self, Self::Syntax | Self::UnknownInstruction | Self::Flag | Self::Argument)
    }
}

/// One error in a Dockerfile.
///
/// `Display` gives the message with its suggestion on one line, `crate::render` the excerpt around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    message: String,
    span: Span,
    instruction: Span,
    expected: Option<String>,
    suggestion: Option<String>,
    offset: Option<usize>,
    unblamed: bool,
}

impl Error {
    /// An error with a message and no place yet.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            span: Span::default(),
            instruction: Span::default(),
            expected: None,
            suggestion: None,
            offset: None,
            unblamed: false,
        }))
    }

    /// Sets the exact place, unless one is known already.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        if !self.0.span.is_known() {
            self.0.span = span;
        }
        self
    }

    /// Remembers the byte of the word that is at fault, until [`Self::in_word`] knows where the word stands.
    #[must_use]
    pub(crate) fn at_offset(mut self, offset: usize) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Sets the place to the word, or to the byte at fault when the word is as written and on one line.
    #[must_use]
    pub(crate) fn in_word(self, word: &Word) -> Self {
        let Span { start, end } = word.span;
        let as_written = start.line == end.line
            && end.column.checked_sub(start.column) == u32::try_from(word.text.len()).ok();
        match self.0.offset {
            Some(offset) if as_written && offset < word.text.len() => {
                let column = start.column + u32::try_from(offset).unwrap_or(0);
                self.at(Span::new(Position::new(start.line, column), end))
            }
            _ => self.at(word.span),
        }
    }

    /// Marks no line of the file: BuildKit's clients show none for errors of directives.
    #[must_use]
    pub(crate) fn unblamed(mut self) -> Self {
        self.0.unblamed = true;
        self
    }

    /// Sets the lines of the whole instruction (those that clients mark), unless known already.
    #[must_use]
    pub fn within(mut self, instruction: Span) -> Self {
        if !self.0.instruction.is_known() {
            self.0.instruction = instruction;
        }
        self
    }

    /// Says what would have been right.
    #[must_use]
    pub fn expected(mut self, what: impl Into<String>) -> Self {
        self.0.expected = Some(what.into());
        self
    }

    /// Names the nearest known word, when one is near.
    #[must_use]
    pub fn suggest(mut self, nearest: Option<impl Into<String>>) -> Self {
        self.0.suggestion = nearest.map(Into::into);
        self
    }

    /// Which part of the work refused the text.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message alone.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The narrowest stretch of text to blame; not known (`!is_known()`) for errors of the file as a whole.
    #[must_use]
    pub fn span(&self) -> Span {
        if self.0.span.is_known() { self.0.span } else { self.0.instruction }
    }

    /// The lines of the instruction to blame, which clients mark with `>>>`.
    #[must_use]
    pub fn blamed(&self) -> Span {
        match self.0.instruction {
            _ if self.0.unblamed => Span::default(),
            instruction if instruction.is_known() => instruction,
            _ => self.0.span,
        }
    }

    /// What would have been right, as a phrase.
    #[must_use]
    pub fn expectation(&self) -> Option<&str> {
        self.0.expected.as_deref()
    }

    /// The nearest known word.
    #[must_use]
    pub fn suggestion(&self) -> Option<&str> {
        self.0.suggestion.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(expected) = &self.0.expected {
            write!(f, ": expected {expected}")?;
        }
        if let Some(suggestion) = &self.0.suggestion {
            write!(f, " (did you mean {suggestion}?)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// All independent errors of one Dockerfile, in the order of its lines; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Error>);

impl Errors {
    /// `None` when there is nothing to report.
    #[must_use]
    pub fn from_vec(mut errors: Vec<Error>) -> Option<Self> {
        errors.sort_by_key(|e| e.span().start);
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// The errors, first line first.
    #[must_use]
    pub fn as_slice(&self) -> &[Error] {
        &self.0
    }

    /// The error that clients which show only one should show.
    #[must_use]
    pub fn first(&self) -> &Error {
        &self.0[0]
    }
}

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first();
        if first.kind().is_of_parser() && first.span().is_known() {
            write!(f, "dockerfile parse error on line {}: ", first.span().start.line)?;
        }
        write!(f, "{first}")?;
        match self.0.len() - 1 {
            0 => Ok(()),
            1 => f.write_str(" (and 1 more error)"),
            n => write!(f, " (and {n} more errors)"),
        }
    }
}

impl std::error::Error for Errors {}
