//! Excerpts of a file around what is wrong, as clients show them.

use crate::error::{Error, Errors};
use crate::span::Span;

const RULE: &str = "--------------------\n";

/// The lines of a span marked by `>>>`, with a few lines around them. This is the form of BuildKit's clients:
///
/// ```text
/// Dockerfile:2
/// --------------------
///    1 |     FROM busybox
///    2 | >>> RUNN true
/// --------------------
/// ```
///
/// Empty when the span is not in the text.
#[must_use]
pub fn excerpt(filename: &str, text: &str, span: Span) -> String {
    excerpt_of(filename, &lines(text), span)
}

/// The lines of a text, for several excerpts of it.
#[must_use]
pub fn lines(text: &str) -> Vec<&str> {
    text.split('\n').collect()
}

/// As [`excerpt`], of the [`lines`] of a text.
#[must_use]
pub fn excerpt_of(filename: &str, lines: &[&str], span: Span) -> String {
    let (first, last) = (span.start.line as usize, *span.lines().end() as usize);
    if !span.is_known() || first > lines.len() {
        return String::new();
    }
    let last = last.min(lines.len());
    let (mut from, mut to) = (first, last);
    // A single line gets more of its surroundings. Lines are added on both sides in turn until there are enough.
    let wanted = if first == last { 4 } else { 2 };
    let mut added = 0;
    while added < wanted {
        if from > 1 {
            from -= 1;
            added += 1;
        }
        if to < lines.len() {
            to += 1;
            added += 1;
        }
        added += 1;
    }
    let mut out = format!("{filename}:{first}\n{RULE}");
    for (number, line) in (from..=to).zip(&lines[from - 1..]) {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        out += &format!(" {number:3} | {mark} {line}\n");
    }
    out.push_str(RULE);
    out
}

/// One error as a compiler would show it: the message, the line, the span underlined, what was expected.
///
/// ```text
/// error: unknown instruction: RUNN
///   --> Dockerfile:2:1
///    |
///  2 | RUNN true
///    | ^^^^ did you mean RUN?
/// ```
#[must_use]
pub fn error(filename: &str, text: &str, error: &Error) -> String {
    let hint = hint(error.expectation(), error.suggestion());
    message(filename, text, error.message(), error.span(), &hint)
}

/// What would have been right, in few words; empty if neither is known.
#[must_use]
pub fn hint(expected: Option<&str>, suggestion: Option<&str>) -> String {
    let hints = [
        expected.map(|what| format!("expected {what}")),
        suggestion.map(|name| format!("did you mean {name}?")),
    ];
    hints.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// As [`error`](fn@error), of what an error is made of.
#[must_use]
pub fn message(filename: &str, text: &str, message: &str, span: Span, hint: &str) -> String {
    let mut out = format!("error: {message}\n");
    let line = (span.start.line as usize).checked_sub(1).and_then(|index| text.split('\n').nth(index));
    let Some(line) = line else {
        out += &format!("  --> {filename}\n");
        if !hint.is_empty() {
            out += &format!("   = {hint}\n");
        }
        return out;
    };
    let line = line.trim_end_matches('\r');
    let number = span.start.line.to_string();
    let gutter = " ".repeat(number.len());
    let column = floor(line, span.start.column as usize) + 1;
    out += &format!("{gutter} --> {filename}:{number}:{column}\n");
    out += &format!("{gutter}  |\n");
    out += &format!("{number}  | {line}\n");
    out += format!("{gutter}  | {} {hint}", underline(line, span)).trim_end();
    out.push('\n');
    out
}

/// Marks to stand below the first line of a span: blanks up to it (tabs where the line has some), and a `^` for each of its
/// characters, one at least.
#[must_use]
pub fn underline(line: &str, span: Span) -> String {
    let start = floor(line, span.start.column as usize);
    let end = if span.end.line == span.start.line {
        floor(line, span.end.column as usize)
    } else {
        line.trim_end().len()
    };
    let indent = line[..start].chars().map(|c| if c == '\t' { '\t' } else { ' ' });
    let marks = line.get(start..end).map_or(1, |marked| marked.chars().count().max(1));
    indent.chain(std::iter::repeat_n('^', marks)).collect()
}

/// All errors of a file, one after the other.
#[must_use]
pub fn errors(filename: &str, text: &str, errors: &Errors) -> String {
    let shown: Vec<String> = errors.as_slice().iter().map(|e| error(filename, text, e)).collect();
    shown.join("\n")
}

/// The nearest character boundary at or below an offset.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Position;

    #[test]
    fn excerpts_mark_lines() {
        let text = "a\nb\nc\nd\ne\nf";
        let span = Span::new(Position::new(3, 0), Position::new(4, 1));
        let shown = excerpt("F", text, span);
        assert!(shown.contains("   3 | >>> c\n   4 | >>> d\n   5 |     e\n"), "{shown}");
        assert!(shown.starts_with("F:3\n"));
        assert_eq!(excerpt("F", text, Span::line(9)), "");
        assert_eq!(excerpt("F", text, Span::default()), "");
        assert!(excerpt("F", "x", Span::line(1)).contains(" >>> x"));
    }

    #[test]
    fn errors_are_underlined() {
        let text = "FROM a\n\tRUNN x\n";
        let errors_found = crate::parse(text).unwrap_err();
        let shown = errors("Dockerfile", text, &errors_found);
        assert!(shown.contains("2  | \tRUNN x\n   | \t^^^^ did you mean RUN?"), "{shown}");
        assert!(shown.contains("Dockerfile:2:2"), "{shown}");
    }
}
