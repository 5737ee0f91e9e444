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

use kiln_proto::{errdefs::Source, status::WireError};

/// Lines shown on each side of a single one that is blamed, and of several.
const CONTEXT: (usize, usize) = (2, 1);
/// A file with more lines than this is not one that people read.
const MAX_LINES: usize = 1 << 20;

/// Writes an excerpt for each source that the error points to, innermost first.
///
/// # Errors
/// If `out` cannot be written to.
pub fn write_excerpts(out: &mut impl Write, error: &WireError) -> io::Result<()> {
    let mut sources: Vec<_> = error.sources().collect();
    sources.reverse();
    sources.into_iter().try_for_each(|source| write_excerpt(out, source))
}

/// Writes one excerpt; nothing, if the source does not say which lines.
fn write_excerpt(out: &mut impl Write, source: &Source) -> io::Result<()> {
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
        let mark = if blamed.binary_search(&number).is_ok() { ">>>" } else { "   " };
        writeln!(out, " {number:3} | {mark} {}", lines.get(number - 1).unwrap_or(&""))?;
    }
    writeln!(out, "--------------------")
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
        write_excerpt(&mut out, &Source { info: Some(info), ranges }).unwrap();
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
