//! What is wrong whatever the rest of a Dockerfile says: told along with what can't be parsed, so that people need no second run.

use super::failure::refuse;
use super::{Options, chmod, expose, signal};
use crate::ast::{Command, Dockerfile, Instruction, is_plain};
use crate::document::MAX_ERRORS;
use crate::error::Error;
use crate::word::Word;

/// Adds what is wrong in the stages that are certainly built: the target and those it starts from. Nothing is said where a variable
/// or a context of the client might change that.
pub(super) fn add_errors(file: &Dockerfile, options: &Options, errors: &mut Vec<Error>) {
    // A client's context may take the place of a stage.
    if options.has_contexts() {
        return;
    }
    let stage = match options.target.as_str() {
        "" => file.stages.len().checked_sub(1),
        name => file.stage_index(name),
    };
    let mut next = stage;
    while let Some(stage) = next.and_then(|index| file.stages.get(index)) {
        for instruction in &stage.instructions {
            let wrong = check(instruction).err();
            errors.extend(wrong.map(|error| error.within(instruction.span)));
        }
        // A stage starts from an earlier one.
        let earlier = file.stages.iter().take(next.unwrap_or_default());
        next = earlier.into_iter().rposition(|s| s.name() == Some(stage.base.as_str()));
    }
    errors.sort_by_key(|error| error.blamed().start);
    errors.truncate(MAX_ERRORS);
}

/// Whether each of the paths of a VOLUME is one.
pub(super) fn check_volumes(paths: &[Word]) -> Result<(), Error> {
    match paths.iter().find(|path| path.is_empty()) {
        Some(empty) => Err(refuse("VOLUME specified can not be an empty string").at(empty.span)),
        None => Ok(()),
    }
}

fn check(instruction: &Instruction) -> Result<(), Error> {
    let plain = |word: &&Word| !word.is_empty() && is_plain(word);
    match &instruction.command {
        Command::Stopsignal(name) if plain(&name) => signal::check(name),
        Command::Expose(words) => {
            words.iter().filter(plain).try_for_each(|word| expose::ports(word, word.span).map(drop))
        }
        Command::Copy(copy) => {
            copy.chmod.iter().filter(plain).try_for_each(|mode| chmod::read(mode).map(drop))
        }
        Command::Add(add) => add.chmod.iter().filter(plain).try_for_each(|mode| chmod::read(mode).map(drop)),
        Command::Volume(paths) => check_volumes(paths),
        _ => Ok(()),
    }
}
