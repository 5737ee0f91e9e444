//! `--chmod`: an octal number, or symbols as `chmod` takes them.

use super::failure::refuse;
use crate::error::Error;
use crate::word::Word;

/// A mode that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// Permission bits.
    Octal(u32),
    /// Symbols, to be applied to each file.
    Symbols(String),
}

/// Reads a mode; the error knows its place.
pub(super) fn read(word: &Word) -> Result<Mode, Error> {
    parse(word).map_err(|problem| refuse(problem).at(word.span))
}

fn parse(text: &str) -> Result<Mode, String> {
    let octal =
        || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Mode::Octal(mode)),
            _ => Err(octal()),
        };
    }
    if !text.is_empty() && text.split(',').all(clause) {
        return Ok(Mode::Symbols(text.to_owned()));
    }
    Err(octal())
}

/// `[ugoa…][[-+=][perms…]…]`, where permissions are letters of `rwxXst`, or one of `ugo`.
fn clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    if !actions.starts_with(['-', '+', '=']) {
        return false;
    }
    actions[1..].split(['-', '+', '=']).all(|perms| {
        matches!(perms, "u" | "g" | "o")
            || perms.chars().all(|c| matches!(c, 'r' | 'w' | 'x' | 'X' | 's' | 't'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(parse("0755"), Ok(Mode::Octal(0o755)));
        assert_eq!(parse("7777"), Ok(Mode::Octal(0o7777)));
        for good in ["u=rwX,go=rX", "+x", "a-w", "g=u", "u+rw-x", "o="] {
            assert_eq!(parse(good), Ok(Mode::Symbols(good.into())), "{good}");
        }
        for bad in ["", "8", "10000", "rwx", "u", "u=q", ",", "u=rwx,", "u+ug", "99999999999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
