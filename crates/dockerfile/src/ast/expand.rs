//! Which texts of a command take part in variable expansion.

use super::{Command, KeyValue, Sources};
use crate::error::Error;
use crate::word::Word;

/// Expands one word to one word: called for each text of a command that takes variables and holds more than plain characters,
/// in the order of the reference (which decides the order of warnings about undefined variables).
pub type Expander<'a> = dyn FnMut(&str) -> Result<String, Error> + 'a;

impl Command {
    /// Expands what the instruction expands as a word (quotes are removed): ADD, COPY (not `--from`), ENV, LABEL, the
    /// mounts of RUN, STOPSIGNAL, USER, VOLUME, WORKDIR. The others are left as they are: EXPOSE is split into words
    /// by its converter, and the default of an ARG expands only when no build argument takes its place.
    pub fn expand(&mut self, expander: &mut Expander<'_>) -> Result<(), Error> {
        match self {
            Self::Add(add) => {
                expand_option(&mut add.chown, expander)?;
                expand_option(&mut add.chmod, expander)?;
                expand_option(&mut add.checksum, expander)?;
                expand_sources(&mut add.sources, expander)
            }
            Self::Copy(copy) => {
                expand_option(&mut copy.chown, expander)?;
                expand_option(&mut copy.chmod, expander)?;
                expand_sources(&mut copy.sources, expander)
            }
            Self::Env(pairs) | Self::Label(pairs) => {
                pairs.iter_mut().try_for_each(|pair| expand_pair(pair, expander))
            }
            Self::Run(run) => run.mounts.iter_mut().try_for_each(|mount| mount.expand(expander)),
            Self::Volume(words) => words.iter_mut().try_for_each(|word| expand_word(word, expander)),
            Self::Stopsignal(word) | Self::User(word) | Self::Workdir(word) => expand_word(word, expander),
            Self::Arg(_)
            | Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Expose(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::Onbuild(_)
            | Self::Shell(_) => Ok(()),
        }
    }

    /// Expands the heredoc files of COPY and ADD, which keep their quotes: the expander should not process them and
    /// takes `\` as its escape character whatever the file's directive says.
    pub fn expand_raw(&mut self, expander: &mut Expander<'_>) -> Result<(), Error> {
        let sources = match self {
            Self::Add(add) => &mut add.sources,
            Self::Copy(copy) => &mut copy.sources,
            _ => return Ok(()),
        };
        for file in sources.contents.iter_mut().filter(|f| f.expand) {
            file.data = expander(&file.data).map_err(|e| e.at(file.name.span))?.into();
        }
        Ok(())
    }
}

/// What no lexer changes: nothing in it means anything.
pub(crate) fn is_plain(text: &str) -> bool {
    let special = |b: u8| matches!(b, b'$' | b'\'' | b'"' | b'\\' | b'`' | b'<' | 0xef);
    // All bytes of a block at once is quicker than one after the other.
    !text.as_bytes().chunks(32).any(|block| block.iter().fold(false, |found, &b| found | special(b)))
}

fn expand_word(word: &mut Word, expander: &mut Expander<'_>) -> Result<(), Error> {
    if is_plain(&word.text) {
        return Ok(());
    }
    word.text = expander(&word.text).map_err(|e| e.in_word(word))?.into();
    Ok(())
}

fn expand_option(word: &mut Option<Word>, expander: &mut Expander<'_>) -> Result<(), Error> {
    word.as_mut().map_or(Ok(()), |word| expand_word(word, expander))
}

fn expand_pair(pair: &mut KeyValue, expander: &mut Expander<'_>) -> Result<(), Error> {
    expand_word(&mut pair.key, expander)?;
    expand_word(&mut pair.value, expander)
}

fn expand_sources(sources: &mut Sources, expander: &mut Expander<'_>) -> Result<(), Error> {
    sources.paths.iter_mut().try_for_each(|path| expand_word(path, expander))?;
    expand_word(&mut sources.dest, expander)
}
