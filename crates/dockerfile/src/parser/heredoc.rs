//! Here-documents: finding their `<<` words, reading their lines.

use std::borrow::Cow;

use bytestring::ByteString;

use super::line::{Lines, LogicalLine};
use crate::ast::Heredoc;
use crate::error::{Error, ErrorKind};
use crate::shell::{Lexer, NoVariables};
use crate::span::Span;

/// Reads a word as the start of a heredoc: `<<EOF`, `<<-EOF`, `3<<"EOF"`. Its content is empty yet.
pub(crate) fn parse_marker(word: &str) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (descriptor, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let name = single_word(rest, false)?;
    let raw = single_word(rest, true)?;
    Some(Heredoc {
        // A word that loses quotes was quoted: nothing expands in its lines.
        expand: quotes(&name) == quotes(&raw),
        name: name.as_ref().into(),
        file_descriptor: if descriptor.is_empty() { 0 } else { descriptor.parse().unwrap_or(u32::MAX) },
        chomp,
        content: ByteString::new(),
        span: Span::default(),
    })
}

fn single_word(text: &str, raw_quotes: bool) -> Option<Cow<'_, str>> {
    let lexer = Lexer { raw_quotes, keep_unset: true, ..Lexer::new('\\') };
    if lexer.keeps(text) && !text.contains(char::is_whitespace) {
        return Some(text.into());
    }
    let mut words = lexer.words(text, &NoVariables).ok()?;
    if words.len() == 1 { words.pop().map(Cow::Owned) } else { None }
}

fn quotes(word: &str) -> usize {
    word.matches(['\'', '"']).count()
}

/// The heredocs that an instruction announces, in order. A line whose quotes or substitutions don't add up has none.
pub(super) fn markers(line: &LogicalLine) -> Vec<Heredoc> {
    let text = &line.text;
    if !text.contains("<<") {
        return Vec::new();
    }
    let lexer = Lexer { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Lexer::new('\\') };
    let words = lexer.words(text, &NoVariables).unwrap_or_default();
    let mut from = 0;
    // Most lines have one, and most of what looks like one is one.
    let mut heredocs = Vec::with_capacity(1);
    heredocs.extend(words.iter().filter_map(|word| {
        let mut heredoc = parse_marker(word)?;
        let at = text[from..].find("<<").map_or(from, |at| from + at);
        from = (at + 2).min(text.len());
        heredoc.span = line.span_of(at, from);
        Some(heredoc)
    }));
    heredocs
}

/// Reads the lines of a heredoc up to its terminator.
pub(super) fn read_body(heredoc: &mut Heredoc, lines: &mut Lines<'_>) -> Result<(), Error> {
    let (body, mut length) = (lines.rest(), 0);
    while let Some(line) = lines.next()? {
        let mut candidate = line.trimmed();
        if heredoc.chomp {
            candidate = candidate.trim_start_matches('\t');
        }
        if heredoc.name == candidate {
            heredoc.content = lines.slice(&body[..length]);
            return Ok(());
        }
        length += line.raw.len();
    }
    Err(Error::new(ErrorKind::Syntax, format!("the heredoc {} is never closed", heredoc.name))
        .at(heredoc.span)
        .expected(format!("a line that is {} alone", heredoc.name)))
}

/// The content without the tabs at the start of each line, as `<<-` asks for.
#[must_use]
pub fn chomp(content: &str) -> String {
    content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_in_all_spellings() {
        let plain = parse_marker("<<EOF").unwrap();
        assert_eq!((&*plain.name, plain.expand, plain.chomp, plain.file_descriptor), ("EOF", true, false, 0));
        let quoted = parse_marker("3<<-'END'").unwrap();
        assert_eq!(
            (&*quoted.name, quoted.expand, quoted.chomp, quoted.file_descriptor),
            ("END", false, true, 3)
        );
        assert!(!parse_marker("<<\"a b\"").unwrap().expand);
        assert_eq!(parse_marker("<< EOF").unwrap().name, "EOF");
        assert_eq!(parse_marker("<<$X").unwrap().name, "$X");
        for none in ["EOF", "<EOF", "<<", "<<-", "<<<EOF", "a<<EOF", "<<a b", "<<''"] {
            assert!(parse_marker(none).is_none(), "{none}");
        }
    }

    #[test]
    fn chomping_drops_leading_tabs_only() {
        assert_eq!(chomp("\t\ta\n b\n\tc\td"), "a\n b\nc\td");
    }
}
