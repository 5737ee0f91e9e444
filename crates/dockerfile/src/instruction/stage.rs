//! FROM.

use std::borrow::Cow;

use super::flags::{Flags, Kind};
use super::{code, description, refuse};
use crate::ast::Stage;
use crate::error::Error;
use crate::parser::Statement;
use crate::text::lower;
use crate::word::Word;

pub(super) fn from(mut statement: Statement) -> Result<Stage, Error> {
    let words = &statement.args.words;
    let name = match words.as_slice() {
        [_] => None,
        [_, r#as, name] if r#as.eq_ignore_ascii_case("as") => Some(stage_name(name)?),
        _ => {
            let error =
                refuse(format!("FROM with {} words", words.len())).expected("`image` or `image AS name`");
            return Err(match words.get(1) {
                Some(word) => error.at(word.span),
                None => error,
            });
        }
    };
    let mut flags = Flags::take(&mut statement.flags, &[("platform", Kind::Value)])?;
    let mut words = statement.args.words.into_iter();
    let base = words.next().unwrap_or_default();
    let (spelled_as, spelled_name) = (words.next(), words.next());
    Ok(Stage {
        code: code(statement.text),
        span: statement.span,
        base,
        description: name.as_ref().and_then(|name| description(&statement.comments, name)),
        name,
        spelled_name: spelled_name.map(|word| word.text),
        spelled_as: spelled_as.map(|word| word.text),
        platform: flags.value("platform"),
        instructions: Vec::new(),
        users: Vec::new(),
        comments: statement.comments,
    })
}

/// A stage's name in lower case: a letter, then letters, digits and `-_.`
fn stage_name(word: &Word) -> Result<Word, Error> {
    let name = match lower(word) {
        Cow::Borrowed(_) => word.text.clone(),
        Cow::Owned(name) => name.into(),
    };
    let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
    if !valid {
        return Err(refuse(format!("\"{word}\" can't be the name of a stage"))
            .at(word.span)
            .expected("a letter, then letters, digits, `-`, `_` and `.`"));
    }
    Ok(Word::new(name, word.span))
}
