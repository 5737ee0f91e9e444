//! Variable expansion and word splitting, the shell-like part of the language.
//!
//! ```text
//! $name ${name}             the value
//! ${name:-word} ${name-word}   word, if name is empty or unset / if it is unset
//! ${name:+word} ${name+word}   word, unless name is empty or unset / unless it is unset
//! ${name:?word} ${name?word}   an error that says word, if name is empty or unset / if it is unset
//! ${name#pat} ${name##pat}     without the shortest / longest prefix that matches
//! ${name%pat} ${name%%pat}     without the shortest / longest suffix that matches
//! ${name/pat/word} ${name//pat/word}   the first / every match replaced
//! ```
//!
//! `'…'` keeps everything as it is; in `"…"` variables expand, and the escape character escapes `"`, `$` and itself;
//! outside it escapes any character. Patterns know `*` and `?`, neither of which matches a newline.
//!
//! Expansion is linear in its input; nesting and the size of a result are limited.

mod dollar;
mod pattern;
mod scan;
mod vars;

use std::collections::BTreeSet;

use crate::ast::is_plain;
use crate::error::{Error, ErrorKind};
pub use vars::{NoVariables, VariableList, Variables};

use scan::{Scan, Track, WordList};

/// Longest text an expansion may grow to, in bytes: variables that double each other must not eat the machine.
pub const MAX_EXPANSION: usize = 16 << 20;

/// How deep substitutions may nest.
pub const MAX_DEPTH: usize = 128;

/// How words are expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lexer {
    /// The file's escape character.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters (the content of heredocs).
    pub ignore_quotes: bool,
    /// Variables that aren't set stay as written.
    pub keep_unset: bool,
}

/// What became of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// The text, or why there is none.
    pub text: Result<String, Error>,
    /// Names that were looked up and found, also when `text` is an error.
    pub matched: BTreeSet<String>,
    /// Names that were looked up and not found, also when `text` is an error.
    pub unmatched: BTreeSet<String>,
}

impl Lexer {
    /// The usual expansion: quotes and escapes are removed, unset variables are empty.
    #[must_use]
    pub fn new(escape: char) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, ignore_quotes: false, keep_unset: false }
    }

    /// The expansion of heredoc files: `\` escapes, quotes stay.
    #[must_use]
    pub fn for_heredoc() -> Self {
        Self { ignore_quotes: true, ..Self::new('\\') }
    }

    /// Expands to one word: blanks stay as they are.
    #[must_use]
    pub fn word(&self, text: &str, vars: &dyn Variables) -> Expansion {
        let mut scan = Scan::new(self, text, vars);
        let result = scan.until(None, self.raw_escapes, None).map_err(|failure| failure.into_error(text));
        Expansion { text: result, matched: scan.matched, unmatched: scan.unmatched }
    }

    /// Expands to one word, for callers that don't ask which variables there were.
    ///
    /// # Errors
    /// As in [`Expansion::text`].
    pub fn text(&self, text: &str, vars: &dyn Variables) -> Result<String, Error> {
        let mut scan = Scan::new(self, text, vars);
        scan.track = Track::Nothing;
        scan.until(None, self.raw_escapes, None).map_err(|failure| failure.into_error(text))
    }

    /// Expands to one word; only names that were not found are noted.
    pub(crate) fn word_and_unmatched(&self, text: &str, vars: &dyn Variables) -> Expansion {
        let mut scan = Scan::new(self, text, vars);
        scan.track = Track::Unmatched;
        let result = scan.until(None, self.raw_escapes, None).map_err(|failure| failure.into_error(text));
        Expansion { text: result, matched: scan.matched, unmatched: scan.unmatched }
    }

    /// Whether a text is certain to stay as it is.
    pub(crate) fn keeps(&self, text: &str) -> bool {
        matches!(self.escape, '\\' | '`') && is_plain(text)
    }

    /// Expands, then splits at blanks that are neither quoted nor escaped. Blanks from variables split too.
    ///
    /// A quirk of the reference that images depend on: what stands in a word before a substitution with an operand
    /// is lost (`1${port#8}` is the value of `${port#8}`). Only EXPOSE splits words, so only EXPOSE shows it.
    pub fn words(&self, text: &str, vars: &dyn Variables) -> Result<Vec<String>, Error> {
        if self.keeps(text) && !text.is_empty() && !text.contains(char::is_whitespace) {
            return Ok(vec![text.to_owned()]);
        }
        let mut words = WordList::default();
        let mut scan = Scan::new(self, text, vars);
        scan.until(None, self.raw_escapes, Some(&mut words)).map_err(|failure| failure.into_error(text))?;
        Ok(words.finish())
    }
}

/// Why a word could not be expanded, and at which byte of it.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: String,
    expected: Option<&'static str>,
    offset: usize,
    /// The text ended before the closing character of a substitution.
    unclosed: bool,
}

impl Failure {
    fn new(offset: usize, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), expected: None, offset, unclosed: false }
    }

    fn expected(mut self, what: &'static str) -> Self {
        self.expected = Some(what);
        self
    }

    fn into_error(self, text: &str) -> Error {
        let shown: String = text.chars().take(80).collect();
        let dots = if shown.len() < text.len() { "…" } else { "" };
        let error =
            Error::new(ErrorKind::Expansion, format!("cannot expand {shown:?}{dots}: {}", self.reason))
                .at_offset(self.offset);
        match self.expected {
            Some(what) => error.expected(what),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests;
