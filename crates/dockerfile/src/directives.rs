//! Parser directives: `# name=value` lines at the very top of a file.
//!
//! ```text
//! # syntax=docker/dockerfile:1
//! # escape=`
//! # check=skip=JSONArgsRecommended;error=true
//! ```
//!
//! The first line that is no known directive ends them; none may be given twice.

use crate::error::{Error, ErrorKind};
use crate::span::{Position, Span};
use crate::word::Word;

/// The directives of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The escape character: `\` or `` ` ``.
    pub escape: char,
    /// The frontend that should read the file. See [`detect_syntax`].
    pub syntax: Option<Syntax>,
    /// Configuration of the lint rules, as written.
    pub check: Option<Word>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { escape: '\\', syntax: None, check: None }
    }
}

/// Which frontend a file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syntax {
    /// The image.
    pub image: String,
    /// The image with the arguments after it.
    pub command: String,
    /// Where the directive stands.
    pub span: Span,
}

/// The directives that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Check,
    Escape,
    Syntax,
}

/// A directive line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directive<'a> {
    pub(crate) name: Name,
    pub(crate) value: &'a str,
}

/// Reads directives line by line.
#[derive(Debug)]
pub(crate) struct DirectiveReader {
    comment: &'static str,
    seen: Vec<Name>,
    done: bool,
}

impl DirectiveReader {
    /// `comment` is what the lines begin with.
    pub(crate) fn new(comment: &'static str) -> Self {
        Self { comment, seen: Vec::new(), done: false }
    }

    /// The directive of a line; `None` for other lines and for all lines after such a one.
    pub(crate) fn line<'a>(&mut self, line: &'a str) -> Result<Option<Directive<'a>>, Error> {
        if self.done {
            return Ok(None);
        }
        let Some(directive) = line.strip_prefix(self.comment).and_then(|text| parse(text.trim_start()))
        else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&directive.name) {
            let name = format!("{:?}", directive.name).to_lowercase();
            return Err(Error::new(ErrorKind::Syntax, format!("the {name} directive is given twice"))
                .expected("it once only"));
        }
        self.seen.push(directive.name);
        Ok(Some(directive))
    }
}

/// `name = value` with a known name and a value.
fn parse(text: &str) -> Option<Directive<'_>> {
    let (name, value) = text.split_once('=')?;
    let name = match name.trim_end_matches(is_space).to_ascii_lowercase().as_str() {
        "check" => Name::Check,
        "escape" => Name::Escape,
        "syntax" => Name::Syntax,
        _ => return None,
    };
    let value = value.trim_matches(is_space);
    (!value.is_empty()).then_some(Directive { name, value })
}

fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ')
}

/// Finds a directive that other programs read too, so a `#!` line may stand before it.
fn find<'a>(text: &'a str, wanted: Name, comment: &'static str) -> Option<(&'a str, Span)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = DirectiveReader::new(comment);
    let lines = text.split_inclusive('\n').zip(1..).skip(usize::from(text.starts_with("#!")));
    for (raw, number) in lines {
        let line = raw.trim_end_matches(['\r', '\n']);
        let directive = reader.line(line).ok()??;
        if directive.name == wanted {
            let start = line.rfind(directive.value).unwrap_or(0);
            let column = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            let end = column(start + directive.value.len());
            return Some((
                directive.value,
                Span::new(Position::new(number, column(start)), Position::new(number, end)),
            ));
        }
    }
    None
}

/// The configuration of the lint rules: the value of `# check=`.
#[must_use]
pub fn find_check(text: &str) -> Option<Word> {
    find(text, Name::Check, "#").map(|(value, span)| Word::new(value, span))
}

/// Which frontend a file asks for, whatever language it is in: a `# syntax=` or `// syntax=` line at its top (after
/// a `#!` line), or the member `syntax` of a JSON object.
#[must_use]
pub fn detect_syntax(text: &str) -> Option<Syntax> {
    let line = find(text, Name::Syntax, "#").or_else(|| find(text, Name::Syntax, "//"));
    if let Some((value, span)) = line {
        let image = value.split(' ').next().unwrap_or(value);
        return Some(Syntax { image: image.to_owned(), command: value.to_owned(), span });
    }
    #[derive(serde::Deserialize)]
    struct Object {
        syntax: String,
    }
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !body.trim_start().starts_with('{') {
        return None;
    }
    let Object { syntax } = serde_json::from_str(body).ok()?;
    Some(Syntax { image: syntax.clone(), command: syntax, span: Span::line(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Option<String> {
        detect_syntax(text).map(|s| s.image)
    }

    #[test]
    fn syntax_in_all_languages() {
        assert_eq!(image("# syntax = a/b:1 --x\nFROM c").as_deref(), Some("a/b:1"));
        assert_eq!(image("#!/usr/bin/x\r\n#syntax=a\r\n").as_deref(), Some("a"));
        assert_eq!(image("// SYNTAX=a\n{}").as_deref(), Some("a"));
        assert_eq!(image("\u{feff}{\"x\": 1, \"syntax\": \"a\"}").as_deref(), Some("a"));
        assert_eq!(image("# escape=`\n# check=skip=all\n# syntax=a\n").as_deref(), Some("a"));
    }

    #[test]
    fn the_first_other_line_ends_the_directives() {
        for text in [
            "# a comment\n# syntax=a",
            "\n# syntax=a",
            "FROM x\n# syntax=a",
            "# sintax=b\n# syntax=a",
            "# syntax=\n",
        ] {
            assert_eq!(image(text), None, "{text}");
        }
    }

    #[test]
    fn places_and_arguments() {
        let found = detect_syntax("# escape=`\n#  syntax= a b  \n").unwrap();
        assert_eq!((found.command.as_str(), found.span.start), ("a b", Position::new(2, 11)));
        assert_eq!(find_check("# check=skip=all;error=true\n").unwrap(), "skip=all;error=true");
    }
}
