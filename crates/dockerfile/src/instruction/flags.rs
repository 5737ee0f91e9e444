//! Flags of instructions: `--name`, `--name=value`.

use smallvec::SmallVec;

use crate::error::{Error, ErrorKind};
use crate::suggest::nearest;
use crate::word::Word;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, `true` or `false`.
    Bool,
    /// A value, once.
    Value,
    /// A value each time it is given.
    Values,
}

/// The flags an instruction knows.
pub(super) type Known = [(&'static str, Kind)];

/// Flags that were given.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: SmallVec<[(&'static str, Word, bool); 2]>,
}

fn refuse(message: String) -> Error {
    Error::new(ErrorKind::Flag, message)
}

impl Flags {
    /// Takes the flags of an instruction, which must be among those it knows.
    pub(super) fn take(words: &mut Vec<Word>, known: &Known) -> Result<Self, Error> {
        let mut flags = Self { given: SmallVec::with_capacity(words.len()) };
        for mut word in std::mem::take(words) {
            let equals = word.find('=');
            let (name, kind) = flags.one(&word, equals, known).map_err(|e| e.at(word.span))?;
            let value = equals.map(|at| &word[at + 1..]);
            let truth = kind == Kind::Bool && truth(value, &word).map_err(|e| e.at(word.span))?;
            let value = equals.map(|at| {
                word.span = word.split_span(at).1;
                word.text = word.text.slice_ref(&word.text[at + 1..]);
                word
            });
            flags.given.push((name, value.unwrap_or_default(), truth));
        }
        Ok(flags)
    }

    /// Which one a word is, whose value begins after `equals`.
    fn one(&self, word: &Word, equals: Option<usize>, known: &Known) -> Result<(&'static str, Kind), Error> {
        let (spelled, value) = match equals {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word.as_str(), None),
        };
        let Some(&(name, kind)) = known.iter().find(|(name, _)| spelled.strip_prefix("--") == Some(name))
        else {
            return Err(unknown(spelled, known));
        };
        if kind != Kind::Values && self.given.iter().any(|(given, ..)| *given == name) {
            return Err(refuse(format!("{spelled} is given twice")).expected("it once only"));
        }
        if kind != Kind::Bool && value.is_none() {
            return Err(refuse(format!("{spelled} without a value")).expected(format!("`{spelled}=…`")));
        }
        Ok((name, kind))
    }

    /// Takes the value of a flag, unless it wasn't given or is empty.
    pub(super) fn value(&mut self, name: &str) -> Option<Word> {
        let (_, value, _) = self.given.iter_mut().find(|(given, ..)| *given == name)?;
        Some(std::mem::take(value)).filter(|value| !value.is_empty())
    }

    /// Value of a flag, possibly empty.
    pub(super) fn given(&self, name: &str) -> Option<&Word> {
        self.given.iter().find(|(given, ..)| *given == name).map(|(_, value, _)| value)
    }

    /// Takes all values of a flag, in order.
    pub(super) fn values(&mut self, name: &str) -> impl Iterator<Item = Word> {
        let all = self.given.iter_mut().filter(move |(given, ..)| *given == name);
        all.map(|(_, value, _)| std::mem::take(value))
    }

    /// How often a flag was given.
    pub(super) fn count(&self, name: &str) -> usize {
        self.given.iter().filter(|(given, ..)| *given == name).count()
    }

    /// What a boolean flag says, if it was given.
    pub(super) fn truth(&self, name: &str) -> Option<bool> {
        self.given.iter().find(|(given, ..)| *given == name).map(|(.., truth)| *truth)
    }

    /// Names of the flags that were given, each once.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for (name, ..) in &self.given {
            if !names.contains(name) {
                names.push(*name);
            }
        }
        names
    }
}

fn unknown(spelled: &str, known: &Known) -> Error {
    let bare = spelled.trim_start_matches("--");
    let error = refuse(format!("unknown flag: {spelled}"));
    if known.is_empty() {
        return error.expected("no flags, this instruction has none");
    }
    error.suggest(nearest(bare, known.iter().map(|(name, _)| *name)))
}

fn truth(value: Option<&str>, word: &Word) -> Result<bool, Error> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some("") => Err(refuse(format!("{word} without a value")).expected("`true` or `false`, or no `=`")),
        Some(_) => Err(refuse(format!("not a boolean value: {word}")).expected("`true` or `false`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &Known = &[("from", Kind::Value), ("link", Kind::Bool), ("exclude", Kind::Values)];

    fn parse(words: &[&str]) -> Result<Flags, Error> {
        Flags::take(&mut words.iter().map(|w| Word::from(*w)).collect(), KNOWN)
    }

    #[test]
    fn each_kind() {
        let mut flags = parse(&["--from=a=b", "--link", "--exclude=x", "--exclude="]).unwrap();
        assert_eq!(flags.value("from").unwrap(), "a=b");
        assert_eq!(flags.truth("link"), Some(true));
        assert_eq!((flags.count("exclude"), flags.values("exclude").count()), (2, 2));
        assert_eq!(flags.names(), ["from", "link", "exclude"]);
        assert_eq!(parse(&["--link=FALSE"]).unwrap().truth("link"), Some(false));
        assert!(parse(&["--from="]).unwrap().value("from").is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |words: &[&str]| parse(words).unwrap_err().to_string();
        assert!(message(&["--form=a"]).contains("did you mean from?"));
        assert!(message(&["--from"]).contains("--from without a value"));
        assert!(message(&["--from=a", "--from=b"]).contains("--from is given twice"));
        assert!(message(&["--link=maybe"]).contains("boolean"));
        assert!(message(&["--link="]).contains("without a value"));
        assert!(message(&["--From=a"]).contains("unknown flag: --From"));
    }
}
