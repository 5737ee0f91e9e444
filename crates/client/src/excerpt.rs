//! Where a build failed: the lines of its Dockerfile.
//!
//! ```text
//!   Dockerfile:3
//!   --------------------
//!      1 |     FROM busybox
//!      2 |
//!      3 | >>> RUN false
//!   --------------------
//! ```

use std::io::{self, Write};

use kiln_dockerfile::{Position, Span, render};
use kiln_proto::{
    errdefs::Source,
    status::{Diagnostic, WireError},
};

/// Lines shown on each side of a single one that is blamed, and of several.
const CONTEXT: (usize, usize) = (2, 1);
/// A file with more lines than this is not one that people read.
const MAX_LINES: usize = 1 << 20;

/// Writes an excerpt for each source that the error points to, innermost first. What is known of the exact places is marked
/// in it; what else is wrong in the file follows, each by itself:
///
/// ```text
///   Dockerfile:2
///   --------------------
///      1 |     FROM busybox
///      2 | >>> RUNN true
///        |     ^^^^ did you mean RUN?
///      3 |     COPI a b
///   --------------------
///   error: unknown instruction: COPI
///    --> Dockerfile:3:1
///   …
/// ```
///
/// # Errors
/// If `out` cannot be written to.
pub fn write_excerpts(out: &mut impl Write, error: &WireError) -> io::Result<()> {
    let all: Vec<Diagnostic> = error.diagnostics().cloned().collect();
    let mut sources: Vec<_> = error.sources().collect();
    // Diagnostics are of the outermost.
    let Some(outermost) = sources.first().copied() else { return Ok(()) };
    sources.reverse();
    for source in sources {
        let marked: &[_] = if std::ptr::eq(source, outermost) { &all } else { &[] };
        write_excerpt(out, source, marked)?;
    }
    write_others(out, outermost, &all)
}

/// Writes one excerpt; nothing, if the source does not say which lines.
fn write_excerpt(out: &mut impl Write, source: &Source, marked: &[Diagnostic]) -> io::Result<()> {
    let Some(info) = &source.info else { return Ok(()) };
    let text = String::from_utf8_lossy(&info.data);
    let lines: Vec<&str> =
        text.split('\n').take(MAX_LINES).map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let blamed = blamed_lines(source, lines.len());
    let (Some(&first), Some(&last)) = (blamed.first(), blamed.last()) else { return Ok(()) };
    let context = if first == last { CONTEXT.0 } else { CONTEXT.1 };
    let (from, to) = (first.saturating_sub(context).max(1), (last + context).min(lines.len()));
    writeln!(out, "{}:{first}\n--------------------", info.filename)?;
    for number in from..=to {
        let is_blamed = blamed.binary_search(&number).is_ok();
        let mark = if is_blamed { ">>>" } else { "   " };
        let line = lines.get(number - 1).unwrap_or(&"");
        writeln!(out, " {number:3} | {mark} {line}")?;
        for diagnostic in marked.iter().filter(|d| is_blamed && d.start.0 as usize == number) {
            if let Some(below) = below(line, diagnostic) {
                writeln!(out, "     |     {below}")?;
            }
        }
    }
    writeln!(out, "--------------------")
}

/// What stands below a line: marks and what would have been right. Nothing if that tells no more than the line's own mark.
fn below(line: &str, diagnostic: &Diagnostic) -> Option<String> {
    let (marks, hint) = (render::underline(line, span(diagnostic)), hint(diagnostic));
    let whole = marks.trim_start().len() >= line.trim().chars().count();
    (!whole || !hint.is_empty()).then(|| format!("{marks} {hint}").trim_end().to_owned())
}

/// Writes what is wrong in other lines than those that the source blames.
fn write_others(out: &mut impl Write, source: &Source, all: &[Diagnostic]) -> io::Result<()> {
    let Some(info) = &source.info else { return Ok(()) };
    let text = String::from_utf8_lossy(&info.data);
    let blamed = blamed_lines(source, MAX_LINES);
    // The first one is what the error itself says.
    for other in all.iter().skip(1).filter(|d| blamed.binary_search(&(d.start.0 as usize)).is_err()) {
        let shown = render::message(&info.filename, &text, &other.message, span(other), &hint(other));
        write!(out, "{shown}")?;
    }
    Ok(())
}

fn span(diagnostic: &Diagnostic) -> Span {
    let position = |(line, column)| Position::new(line, column);
    Span::new(position(diagnostic.start), position(diagnostic.end))
}

fn hint(diagnostic: &Diagnostic) -> String {
    let known = |text: &'_ String| (!text.is_empty()).then(|| text.clone());
    render::hint(known(&diagnostic.expected).as_deref(), known(&diagnostic.suggestion).as_deref())
}

/// The lines that the ranges cover, counted from 1, in order.
fn blamed_lines(source: &Source, count: usize) -> Vec<usize> {
    let mut blamed = Vec::new();
    for range in &source.ranges {
        let line = |p: Option<&kiln_proto::pb::Position>| {
            p.and_then(|p| usize::try_from(p.line).ok()).unwrap_or_default()
        };
        let start = line(range.start.as_ref());
        let end = line(range.end.as_ref()).max(start);
        blamed.extend(start.max(1)..=end.min(count));
    }
    blamed.sort_unstable();
    blamed.dedup();
    blamed
}

#[cfg(test)]
mod tests {
    use kiln_proto::pb;

    use super::*;

    fn excerpt(text: &str, ranges: &[(i32, i32)]) -> String {
        let position = |line| Some(pb::Position { line, character: 0 });
        let info = pb::SourceInfo {
            filename: "Dockerfile".into(),
            data: text.to_owned().into(),
            ..Default::default()
        };
        let ranges =
            ranges.iter().map(|(a, b)| pb::Range { start: position(*a), end: position(*b) }).collect();
        let mut out = Vec::new();
        write_excerpt(&mut out, &Source { info: Some(info), ranges }, &[]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_line_has_more_around_it() {
        assert_eq!(
            excerpt("a\nb\nc\nd\ne\nf\ng\n", &[(4, 4)]),
            "Dockerfile:4\n--------------------\n   2 |     b\n   3 |     c\n   4 | >>> d\n   5 |     e\n   6 |     f\n--------------------\n"
        );
    }

    #[test]
    fn exact_places_are_underlined_and_others_follow() {
        let place = |line: u32, start: u32, end: u32| ((line, start), (line, end));
        let diagnostic = |message: &str, (start, end), suggestion: &str| Diagnostic {
            message: message.into(),
            start,
            end,
            suggestion: suggestion.into(),
            ..Diagnostic::default()
        };
        let all = vec![
            diagnostic("unknown instruction: RUNN", place(2, 0, 4), "RUN"),
            diagnostic("unknown flag: --form", place(4, 5, 11), "--from"),
        ];
        let info = pb::SourceInfo {
            filename: "Dockerfile".into(),
            data: "FROM a\nRUNN b\n\nCOPY --form=x y z\n".into(),
            ..Default::default()
        };
        let line = Some(pb::Position { line: 2, character: 0 });
        let source = Source { info: Some(info), ranges: vec![pb::Range { start: line, end: line }] };
        let error = WireError::new(tonic::Code::Unknown, "no")
            .with(kiln_proto::status::Detail::Diagnostics(all))
            .with(kiln_proto::status::Detail::Source(source));
        let mut out = Vec::new();
        write_excerpts(&mut out, &error).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Dockerfile:2\n--------------------\n   1 |     FROM a\n   2 | >>> RUNN b\n     |     ^^^^ did you mean RUN?\n   3 |     \n   4 |     COPY --form=x y z\n--------------------\nerror: unknown flag: --form\n  --> Dockerfile:4:6\n   |\n4  | COPY --form=x y z\n   |      ^^^^^^ did you mean --from?\n"
        );
    }

    #[test]
    fn several_lines_are_all_marked() {
        assert_eq!(
            excerpt("a\nb\nc\nd", &[(2, 3)]),
            "Dockerfile:2\n--------------------\n   1 |     a\n   2 | >>> b\n   3 | >>> c\n   4 |     d\n--------------------\n"
        );
    }

    #[test]
    fn ranges_that_are_nowhere_show_nothing() {
        assert_eq!(excerpt("a\n", &[(7, 9)]), "");
        assert_eq!(excerpt("a\n", &[]), "");
        assert_eq!(excerpt("", &[(2, 2)]), "");
        assert_eq!(excerpt("a\n", &[(-5, i32::MAX)]).lines().count(), 5);
    }
}
