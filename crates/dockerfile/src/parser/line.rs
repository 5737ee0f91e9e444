//! From physical lines to logical ones: continuations joined, comments and blank lines dropped.

use std::borrow::Cow;

use bytestring::ByteString;

use crate::error::{Error, ErrorKind};
use crate::span::{Position, Span};
use crate::texts::Texts;
use crate::word::Word;

/// Longest physical line, in bytes without its newline.
pub const MAX_LINE: usize = 65535;

/// The physical lines of a file.
pub(super) struct Lines<'a> {
    file: &'a ByteString,
    rest: &'a str,
    /// Where lines are joined; its memory serves one after the other.
    draft: String,
    /// Where the joined ones are.
    joined: Texts,
    /// Number of the line read last.
    number: u32,
    failed: bool,
}

/// A physical line.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    /// With its newline.
    pub(super) raw: &'a str,
    pub(super) number: u32,
}

impl<'a> Line<'a> {
    /// Without its newline, and any carriage returns before it.
    pub(super) fn trimmed(self) -> &'a str {
        self.raw.trim_end_matches(['\r', '\n'])
    }

    fn is_comment(self) -> bool {
        match self.raw.as_bytes().first() {
            Some(b'#') => true,
            Some(b'!'..=b'~') => false,
            _ => self.raw.trim_start().starts_with('#'),
        }
    }
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &'a ByteString) -> Self {
        let rest = file.strip_prefix('\u{feff}').unwrap_or(file);
        Self { file, rest, draft: String::new(), joined: Texts::default(), number: 0, failed: false }
    }

    /// Part of the file as a text that shares its memory.
    pub(super) fn slice(&self, part: &'a str) -> ByteString {
        self.file.slice_ref(part)
    }

    /// Number of the line read last; 0 before the first.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// What is not read yet.
    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    /// The next line; an error when it is too long, and nothing after that.
    pub(super) fn next(&mut self) -> Result<Option<Line<'a>>, Error> {
        if self.rest.is_empty() || self.failed {
            return Ok(None);
        }
        let length = memchr::memchr(b'\n', self.rest.as_bytes()).map_or(self.rest.len(), |at| at + 1);
        let (raw, rest) = self.rest.split_at(length);
        self.number += 1;
        if raw.strip_suffix('\n').unwrap_or(raw).len() > MAX_LINE {
            self.failed = true;
            let span = Span::line(self.number);
            return Err(Error::new(ErrorKind::Syntax, format!("the line is longer than {MAX_LINE} bytes"))
                .at(span)
                .expected("a line broken up by continuations"));
        }
        self.rest = rest;
        Ok(Some(Line { raw, number: self.number }))
    }
}

/// An instruction's text, continuations joined, and where its pieces stand in the file.
#[derive(Debug)]
pub(super) struct LogicalLine {
    /// A slice of the file, or a text of its own if there was something to join.
    pub(super) text: ByteString,
    /// Where the first piece stands in the file.
    first: Position,
    /// Where each other piece begins: its offset in `text` and its position in the file.
    more: Vec<(usize, Position)>,
    /// Number of the last physical line.
    last: u32,
    /// Number of the last physical line when blank lines were among the continuation lines.
    pub(super) empty_continuation: Option<u32>,
}

impl LogicalLine {
    /// Joins a first line (with the blanks at its start cut off) with the lines it continues on.
    pub(super) fn join<'a>(
        first: Line<'a>,
        escape: char,
        lines: &mut Lines<'a>,
    ) -> Result<Option<Self>, Error> {
        let start = first.trimmed().trim_start();
        let column = column(first.raw, start);
        let (first_body, mut continues) = strip_continuation(start, escape);
        if !continues && first_body.is_empty() {
            return Ok(None);
        }
        let mut joined = Self {
            text: ByteString::new(),
            first: Position::new(first.number, column),
            more: Vec::new(),
            last: first.number,
            empty_continuation: None,
        };
        let (mut has_blank, mut buffer) = (false, std::mem::take(&mut lines.draft));
        while continues {
            let Some(line) = lines.next()? else { break };
            joined.last = line.number;
            if line.is_comment() {
                continue;
            }
            let text = line.trimmed();
            if text.trim_start().is_empty() {
                has_blank = true;
                continue;
            }
            let (body, more) = strip_continuation(text, escape);
            continues = more;
            if joined.more.is_empty() {
                buffer.clear();
                buffer.push_str(first_body);
            }
            joined.more.push((buffer.len(), Position::new(line.number, 0)));
            buffer.push_str(body);
        }
        joined.text = match joined.more.is_empty() {
            true => lines.slice(first_body),
            false => lines.joined.keep(&buffer),
        };
        lines.draft = buffer;
        joined.empty_continuation = has_blank.then_some(joined.last);
        Ok(Some(joined))
    }

    /// From the first byte to the end of the last physical line.
    pub(super) fn span(&self) -> Span {
        let start = self.first;
        let end = self.span_of(0, self.text.len()).end;
        Span::new(start, if end.line < self.last { Position::new(self.last, 0) } else { end })
    }

    /// Where a range of bytes of the text stands in the file.
    pub(super) fn span_of(&self, start: usize, end: usize) -> Span {
        let first = self.position(start);
        if end <= start {
            return Span::new(first, first);
        }
        let mut last = self.position(end - 1);
        last.column += 1;
        Span::new(first, last)
    }

    /// A range of bytes of the text as a word.
    pub(super) fn word(&self, start: usize, end: usize) -> Word {
        Word::new(self.slice(&self.text[start..end]), self.span_of(start, end))
    }

    /// Part of the text as a text that shares its memory.
    pub(super) fn slice(&self, part: &str) -> ByteString {
        self.text.slice_ref(part)
    }

    /// What was read from the text: a part of it, or something new.
    pub(super) fn share(&self, read: Cow<'_, str>) -> ByteString {
        match read {
            Cow::Borrowed(part) => self.slice(part),
            Cow::Owned(text) => text.into(),
        }
    }

    fn position(&self, offset: usize) -> Position {
        if self.more.is_empty() {
            let column = self.first.column + u32::try_from(offset).unwrap_or(u32::MAX);
            return Position::new(self.first.line, column);
        }
        let later = self.more.partition_point(|(begin, _)| *begin <= offset);
        let (begin, position) = later.checked_sub(1).map_or((0, self.first), |piece| self.more[piece]);
        Position::new(position.line, position.column + u32::try_from(offset - begin).unwrap_or(u32::MAX))
    }
}

/// Column of `part`, which is a slice of `line`.
fn column(line: &str, part: &str) -> u32 {
    let offset = (part.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
    u32::try_from(offset.min(line.len())).unwrap_or(u32::MAX)
}

/// Cuts the escape character at the end of a line, with blanks after it; says whether there was one.
/// Two of them in a row continue nothing.
fn strip_continuation(line: &str, escape: char) -> (&str, bool) {
    let kept = line.bytes().rposition(|b| b != b' ' && b != b'\t').map_or(0, |at| at + 1);
    match line[..kept].strip_suffix(escape) {
        Some(body) if !body.ends_with(escape) => (body, true),
        _ => (line, false),
    }
}

/// The text of a comment line above an instruction: without its first character and surrounding blanks.
/// `None` for lines that are none.
pub(super) fn comment_text<'a>(line: Line<'a>) -> Option<&'a str> {
    if !line.is_comment() {
        return None;
    }
    let mut chars = line.raw.chars();
    chars.next();
    Some(chars.as_str().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(text: &str) -> LogicalLine {
        let file = text.into();
        let mut lines = Lines::new(&file);
        let first = lines.next().unwrap().unwrap();
        LogicalLine::join(first, '\\', &mut lines).unwrap().unwrap()
    }

    #[test]
    fn positions_survive_joining() {
        let line = join("  RUN a \\\n# note\n\n  b \\ \t\n c\nRUN d\n");
        assert_eq!(line.text, "RUN a   b  c");
        let b = line.text.find('b').unwrap();
        assert_eq!(line.span_of(b, b + 1), Span::new(Position::new(4, 2), Position::new(4, 3)));
        assert_eq!(line.span(), Span::new(Position::new(1, 2), Position::new(5, 2)));
        assert_eq!(line.empty_continuation, Some(5));
    }

    #[test]
    fn two_escapes_do_not_continue() {
        assert_eq!(join("RUN a\\\\\nRUN b\n").text, "RUN a\\\\");
        assert_eq!(join("RUN a\\\r\n b\r\n").text, "RUN a b");
        assert_eq!(join("\\\nRUN x").text, "RUN x");
    }

    #[test]
    fn the_end_of_the_file_ends_a_continuation() {
        let line = join("RUN a \\\n\n");
        assert_eq!((&*line.text, line.span().end.line), ("RUN a ", 2));
    }

    #[test]
    fn long_lines_are_refused() {
        let fits = "x".repeat(MAX_LINE);
        assert!(Lines::new(&format!("{fits}\n").into()).next().is_ok());
        assert!(Lines::new(&format!("{fits}y\n").into()).next().is_err());
        let file = fits.into();
        let mut lines = Lines::new(&file);
        lines.next().unwrap();
        assert!(lines.next().unwrap().is_none());
    }
}
