//! Cutting an instruction's text into keyword, flags, words and pairs.

use std::borrow::Cow;
use std::str::CharIndices;

use super::line::LogicalLine;
use crate::ast::{Few, KeyValue};
use crate::error::{Error, ErrorKind};
use crate::word::{Word, split_span};

/// A part of a logical line, as byte offsets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Part {
    pub(super) fn text(self, line: &LogicalLine) -> &str {
        &line.text[self.start..self.end]
    }

    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(super) fn word(self, line: &LogicalLine) -> Word {
        line.word(self.start, self.end)
    }

    /// Without blanks at both ends.
    pub(super) fn trim(self, line: &LogicalLine) -> Self {
        let text = self.text(line);
        if let [b'!'..=b'~'] | [b'!'..=b'~', .., b'!'..=b'~'] = text.as_bytes() {
            return self;
        }
        let start = self.start + (text.len() - text.trim_start().len());
        Self { start, end: start + text.trim().len() }
    }
}

/// Blanks that separate arguments (other Unicode spaces don't).
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b | 0x0c | b'\r' | b' ')
}

/// Cuts at the first run of blanks.
fn cut_blank(line: &LogicalLine, part: Part) -> (Part, Option<Part>) {
    let text = part.text(line);
    let Some(at) = text.bytes().position(is_blank) else { return (part, None) };
    let next = text
        .bytes()
        .skip(at)
        .position(|b| !is_blank(b))
        .map_or(part.end, |skipped| part.start + at + skipped);
    (Part { start: part.start, end: part.start + at }, Some(Part { start: next, end: part.end }))
}

/// Keyword, flags and the rest (trimmed) of an instruction.
pub(super) fn instruction(line: &LogicalLine, part: Part, escape: char) -> (Part, Vec<Word>, Part) {
    let (keyword, rest) = cut_blank(line, part.trim(line));
    match rest {
        None => (keyword, Vec::new(), Part { start: keyword.end, end: keyword.end }),
        Some(rest) => {
            let (flags, rest) = flags(line, rest, escape);
            (keyword, flags, rest.trim(line))
        }
    }
}

/// Takes the words that begin with `--` off the front; their quotes and escapes are removed. A `--` alone ends them.
fn flags(line: &LogicalLine, part: Part, escape: char) -> (Vec<Word>, Part) {
    let mut flags = Vec::new();
    let mut pos = part.start;
    loop {
        let text = &line.text[pos..part.end];
        pos += text.len() - text.trim_start().len();
        if !line.text[pos..part.end].starts_with("--") {
            return (flags, Part { start: pos, end: part.end });
        }
        let (flag, end) = flag(&line.text[pos..part.end], escape);
        let span = line.span_of(pos, pos + end);
        pos += end;
        if flag == "--" {
            return (flags, Part { start: pos, end: part.end });
        }
        flags.push(Word::new(line.share(flag), span));
    }
}

/// One flag at the start of the text: its value, and how many bytes it takes.
fn flag(text: &str, escape: char) -> (Cow<'_, str>, usize) {
    let special =
        |b: u8| matches!(b, b'\'' | b'"' | b'\t'..=b'\r' | b' ') || !b.is_ascii() || char::from(b) == escape;
    let end = text.bytes().position(special).unwrap_or(text.len());
    if matches!(text.as_bytes().get(end), None | Some(b'\t'..=b'\r' | b' ')) {
        return (text[..end].into(), end);
    }
    let mut value = String::with_capacity(text.len().min(2 * end + 16));
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (value.into(), at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value.into(), text.len())
}

/// Words between blanks; quotes mean nothing.
pub(super) fn plain_words(line: &LogicalLine, part: Part) -> Few<Word> {
    let mut rest = Some(part).filter(|p| !p.is_empty());
    // Blanks that follow each other make the room too large, and that is all.
    let blanks = part.text(line).bytes().filter(|&b| is_blank(b)).count();
    let mut words = Few::with_capacity(blanks + 1);
    while let Some(part) = rest {
        let (word, next) = cut_blank(line, part);
        words.push(word.word(line));
        rest = next;
    }
    words
}

/// Words between blanks that are neither quoted nor escaped; quotes and escapes are kept.
struct ShellWords<'l> {
    chars: CharIndices<'l>,
    part: Part,
    escape: char,
}

impl<'l> ShellWords<'l> {
    fn new(line: &'l LogicalLine, part: Part, escape: char) -> Self {
        Self { chars: part.text(line).char_indices(), part, escape }
    }
}

impl Iterator for ShellWords<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let part = |start: usize, end: usize| Part { start: self.part.start + start, end };
        let mut start = None;
        let mut quote = None;
        let mut end = self.part.end;
        while let Some((at, c)) = self.chars.next() {
            if quote.is_none() && c.is_whitespace() {
                match start {
                    Some(start) => return Some(part(start, self.part.start + at)),
                    None => continue,
                }
            }
            start.get_or_insert(at);
            match quote {
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => {}
            }
            if c == self.escape && quote != Some('\'') && self.chars.next().is_none() {
                // An escape at the very end is dropped.
                end = self.part.start + at;
            }
        }
        start.map(|start| part(start, end)).filter(|word| word.start < word.end)
    }
}

/// The arguments of ARG: words, some with `=`.
pub(super) fn declarations(line: &LogicalLine, part: Part, escape: char) -> Few<Word> {
    ShellWords::new(line, part, escape).map(|word| word.word(line)).collect()
}

/// The arguments of ENV and LABEL: `key=value …`, or the legacy form `key value` with everything after the first
/// blanks as its value.
pub(super) fn pairs(
    line: &LogicalLine,
    part: Part,
    instruction: &str,
    escape: char,
) -> Result<Vec<KeyValue>, Error> {
    let mut words = ShellWords::new(line, part, escape);
    let Some(first) = words.next() else { return Ok(Vec::new()) };
    if !first.text(line).contains('=') {
        let (key, value) = cut_blank(line, part);
        let Some(value) = value else {
            return Err(Error::new(ErrorKind::Syntax, format!("{instruction} with a name and no value"))
                .at(part.word(line).span)
                .expected("`name=value`"));
        };
        return Ok(vec![KeyValue { key: key.word(line), value: value.word(line), has_delimiter: false }]);
    }
    let mut pairs = vec![pair(line, first, instruction)?];
    for word in words {
        pairs.push(pair(line, word, instruction)?);
    }
    Ok(pairs)
}

fn pair(line: &LogicalLine, word: Part, instruction: &str) -> Result<KeyValue, Error> {
    let (text, span) = (word.text(line), line.span_of(word.start, word.end));
    let Some((key, value)) = text.split_once('=') else {
        return Err(Error::new(ErrorKind::Syntax, format!("{instruction}: no = in {text:?}"))
            .at(span)
            .expected("`name=value`, with quotes around a value that holds blanks"));
    };
    let (key_span, value_span) = split_span(text, span, key.len());
    let (key, value) = (Word::new(line.slice(key), key_span), Word::new(line.slice(value), value_span));
    Ok(KeyValue { key, value, has_delimiter: true })
}

#[cfg(test)]
mod tests {
    use super::super::line::Lines;
    use super::*;

    fn with<T>(text: &str, f: impl FnOnce(&LogicalLine, Part) -> T) -> T {
        let file = text.into();
        let mut lines = Lines::new(&file);
        let first = lines.next().unwrap().unwrap();
        let line = LogicalLine::join(first, '\\', &mut lines).unwrap().unwrap();
        let part = Part { start: 0, end: line.text.len() };
        f(&line, part)
    }

    fn texts(words: &[Word]) -> Vec<&str> {
        words.iter().map(Word::as_str).collect()
    }

    #[test]
    fn flags_end_at_the_first_other_word_or_at_two_dashes() {
        with(r#"COPY --a="x y"\ z --b 'q' --c"#, |line, part| {
            let (keyword, flags, rest) = instruction(line, part, '\\');
            assert_eq!(keyword.text(line), "COPY");
            assert_eq!(texts(&flags), ["--a=x y z", "--b"]);
            assert_eq!(rest.text(line), "'q' --c");
        });
        with("COPY --a -- --b c", |line, part| {
            let (_, flags, rest) = instruction(line, part, '\\');
            assert_eq!((texts(&flags), rest.text(line)), (vec!["--a"], "--b c"));
        });
        with("RUN --é=ü", |line, part| {
            let (_, flags, rest) = instruction(line, part, '\\');
            assert_eq!((texts(&flags), rest.text(line)), (vec!["--é=ü"], ""));
        });
    }

    #[test]
    fn quotes_and_escapes_keep_words_together() {
        with(r#"a="b c" d\ e 'f " g' "h\" i" "" j\"#, |line, part| {
            assert_eq!(
                texts(&declarations(line, part, '\\')),
                [r#"a="b c""#, r"d\ e", r#"'f " g'"#, r#""h\" i""#, r#""""#, "j"]
            );
        });
    }

    #[test]
    fn pairs_know_their_places() {
        with("k=v x='y z'", |line, part| {
            let pairs = pairs(line, part, "ENV", '\\').unwrap();
            assert_eq!((pairs[1].key.as_str(), pairs[1].value.as_str()), ("x", "'y z'"));
            assert_eq!(pairs[1].value.span.start.column, 6);
        });
        with("k v  w ", |line, part| {
            let pairs = pairs(line, part.trim(line), "ENV", '\\').unwrap();
            assert_eq!((pairs[0].value.as_str(), pairs[0].has_delimiter), ("v  w", false));
        });
        with("k=v w", |line, part| assert!(pairs(line, part, "ENV", '\\').is_err()));
        with("k", |line, part| assert!(pairs(line, part, "ENV", '\\').is_err()));
    }
}
