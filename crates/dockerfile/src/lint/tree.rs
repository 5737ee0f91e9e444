//! Rules that look at the syntax tree alone.

use bytestring::ByteString;

use super::{Finding, Linter};
use crate::ast::Stage;
use crate::parser::{Keyword, Statement};
use crate::span::Span;
use crate::word::Word;

/// Names with a meaning of their own.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// Blank lines inside instructions.
pub(crate) fn empty_continuations(last_lines: &[Span], linter: &mut Linter) {
    for span in last_lines {
        linter.run(*span, Finding::NoEmptyContinuation);
    }
}

/// What can be said of an instruction before it is known to be right.
pub(crate) fn statement(statement: &Statement, linter: &mut Linter) {
    match statement.kind {
        Some(Keyword::Maintainer) => {
            linter.with_comments(&statement.comments).run(statement.span, Finding::MaintainerDeprecated);
        }
        Some(Keyword::From) => from(statement, linter),
        _ => {}
    }
}

fn from(statement: &Statement, linter: &mut Linter) {
    let words = &statement.args.words;
    let mut lint = linter.with_comments(&statement.comments);
    if let [_, _, name] = words.as_slice()
        && !is_lower(name)
    {
        lint.run(statement.span, Finding::StageNameCasing(name));
    }
    let keyword = statement.keyword();
    if let [_, r#as, _, ..] = words.as_slice() {
        // A keyword in mixed case is warned about by itself.
        let matches = if is_lower(keyword) { is_lower(r#as) } else { !is_upper(keyword) || is_upper(r#as) };
        if !matches {
            lint.run(statement.span, Finding::FromAsCasing { from: keyword, r#as });
        }
    }
}

/// The comment above a definition should describe it.
pub(crate) fn description<'n>(
    instruction: &str,
    mut names: impl Iterator<Item = &'n str> + Clone,
    comments: &[ByteString],
    span: Span,
    linter: &mut Linter,
) {
    let Some(last) = comments.last() else { return };
    let described = last.split(' ').next().unwrap_or_default();
    if !names.clone().any(|name| name == described)
        && let Some(first) = names.next()
    {
        let name = if names.next().is_none() { first } else { "<arg_key>" };
        linter.with_comments(comments).run(span, Finding::InvalidDefinitionDescription { instruction, name });
    }
}

/// Names of stages that are taken or reserved.
pub fn stage_names(stages: &[Stage], linter: &mut Linter) {
    let mut seen = foldhash::HashSet::default();
    for stage in stages {
        let Some(name) = stage.name.as_ref().map(Word::as_str) else { continue };
        if RESERVED.contains(&name) {
            linter.run(stage.span, Finding::ReservedStageName(name));
        }
        if !seen.insert(name) {
            linter.run(stage.span, Finding::DuplicateStageName(name));
        }
    }
}

/// How many of a file's keywords are in which case.
#[derive(Debug, Default)]
pub(crate) struct Casing {
    all: usize,
    lower: usize,
    upper: usize,
}

impl Casing {
    /// One more keyword.
    pub(crate) fn count(&mut self, keyword: &str) {
        let in_lower = is_lower(keyword);
        self.lower += usize::from(in_lower);
        self.upper += usize::from(!in_lower && is_upper(keyword));
        self.all += 1;
    }

    /// Keywords in upper case here and in lower case there; those counted are those of the stages.
    pub(crate) fn check(&self, stages: &[Stage], linter: &mut Linter) {
        if self.all == self.lower.max(self.upper) {
            return;
        }
        let lower = self.lower > self.upper;
        let keywords = stages.iter().flat_map(|stage| {
            std::iter::once((stage.keyword(), stage.span))
                .chain(stage.instructions.iter().map(|i| (i.keyword(), i.span)))
        });
        for (keyword, span) in keywords {
            if !(if lower { is_lower(keyword) } else { is_upper(keyword) }) {
                linter.run(span, Finding::ConsistentInstructionCasing { keyword, lower });
            }
        }
    }
}

fn is_lower(text: &str) -> bool {
    match text.is_ascii() {
        true => !text.bytes().any(|b| b.is_ascii_uppercase()),
        false => !text.chars().any(char::is_uppercase),
    }
}

fn is_upper(text: &str) -> bool {
    match text.is_ascii() {
        true => !text.bytes().any(|b| b.is_ascii_lowercase()),
        false => !text.chars().any(char::is_lowercase),
    }
}
