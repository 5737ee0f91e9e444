//! FROM.

use super::flags::{Flags, Kind};
use super::{code, description, refuse};
use crate::ast::Stage;
use crate::error::Error;
use crate::parser::Statement;
use crate::word::Word;

pub(super) fn from(statement: Statement) -> Result<Stage, Error> {
    let words = &statement.args.words;
    let (base, named) = match words.as_slice() {
        [base] => (base, None),
        [base, r#as, name] if r#as.eq_ignore_ascii_case("as") => (base, Some((r#as, stage_name(name)?))),
        _ => {
            let error =
                refuse(format!("FROM with {} words", words.len())).expected("`image` or `image AS name`");
            return Err(match words.get(1) {
                Some(word) => error.at(word.span),
                None => error,
            });
        }
    };
    let mut flags = Flags::parse(&statement.flags, &[("platform", Kind::Value)])?;
    let spelled_name = named.as_ref().and(words.get(2)).map(|word| word.text.clone());
    let name = named.as_ref().map(|(_, name)| name.clone());
    Ok(Stage {
        code: code(statement.text),
        span: statement.span,
        base: base.clone(),
        description: name.as_ref().and_then(|name| description(&statement.comments, name)),
        name,
        spelled_name,
        spelled_as: named.map(|(word, _)| word.text.clone()),
        platform: flags.value("platform"),
        instructions: Vec::new(),
        comments: statement.comments,
        keyword: statement.keyword,
    })
}

/// A stage's name in lower case: a letter, then letters, digits and `-_.`
fn stage_name(word: &Word) -> Result<Word, Error> {
    let name = word.to_lowercase();
    let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
    if !valid {
        return Err(refuse(format!("\"{word}\" can't be the name of a stage"))
            .at(word.span)
            .expected("a letter, then letters, digits, `-`, `_` and `.`"));
    }
    Ok(Word::new(name, word.span))
}
