//! `$name` and `${…}`.

use super::Failure;
use super::pattern::{Pattern, strip_prefix, strip_suffix};
use super::scan::Scan;

const MODIFIERS: &str = "one of :- :+ :? - + ? # ## % %% / //";

impl<'a> Scan<'a> {
    /// At a `$`: what it stands for.
    pub(super) fn dollar(&mut self) -> Result<String, Failure> {
        let start = self.offset();
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            let value = self.lookup(name);
            let text = match value {
                Some(value) => value,
                None if self.lexer.keep_unset => format!("${name}"),
                None => String::new(),
            };
            return self.spend(text);
        }
        self.next();
        let text = self.braces().map_err(|mut failure| {
            // What is wrong with braces is best seen from their start.
            if self.at_end() {
                failure.offset = start;
            }
            failure
        })?;
        self.spend(text)
    }

    /// After `${`.
    fn braces(&mut self) -> Result<String, Failure> {
        match self.peek() {
            None => return Err(self.missing_brace()),
            Some('{' | '}' | ':') => return Err(self.fail("bad substitution").expected("a variable's name")),
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.offset();
        match self.next() {
            None => Err(self.missing_brace()),
            Some('}') => Ok(match self.lookup(name) {
                Some(value) => value,
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => match self.next() {
                None => Err(self.missing_brace()),
                Some(c @ ('#' | '%')) => Err(unsupported(modifier_at, &format!(":{c}"))),
                Some(c) => self.conditional(name, c, true, modifier_at),
            },
            Some(c @ ('+' | '-' | '?')) => self.conditional(name, c, false, modifier_at),
            Some(c @ ('#' | '%')) => self.trimmed(name, c),
            Some('/') => self.replaced(name),
            Some(c) => Err(unsupported(modifier_at, c.encode_utf8(&mut [0; 4]))),
        }
    }

    /// `:-word` and its kin; an unknown operator is refused only when its variable is looked at.
    fn conditional(
        &mut self,
        name: &str,
        operator: char,
        empty_is_unset: bool,
        at: usize,
    ) -> Result<String, Failure> {
        let word = self.operand('}', false)?;
        let value = self.lookup(name);
        let colon = if empty_is_unset { ":" } else { "" };
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let missing = match &value {
            None => Some("must be set"),
            Some(value) if empty_is_unset && value.is_empty() => Some("must not be empty"),
            Some(_) => None,
        };
        match (operator, missing) {
            ('-', Some(_)) | ('+', None) => Ok(word),
            ('-', None) | ('?', None) => Ok(value.unwrap_or_default()),
            ('+', Some(_)) => Ok(String::new()),
            ('?', Some(reason)) => {
                Err(Failure::new(at, format!("{name}: {}", if word.is_empty() { reason } else { &word })))
            }
            (other, _) => Err(unsupported(at, &format!("{colon}{other}"))),
        }
    }

    /// `#pattern`, `##pattern`, `%pattern`, `%%pattern`
    fn trimmed(&mut self, name: &str, operator: char) -> Result<String, Failure> {
        let at = self.offset();
        let word = self.operand('}', true)?;
        let value = self.lookup(name);
        let Some(value) = value else {
            return Ok(if self.lexer.keep_unset {
                format!("${{{name}{operator}{word}}}")
            } else {
                String::new()
            });
        };
        let (greedy, pattern) =
            word.strip_prefix(operator).map_or((false, word.as_str()), |rest| (true, rest));
        let trim = if operator == '#' { strip_prefix } else { strip_suffix };
        trim(pattern, &value, greedy).map_err(|reason| bad_pattern(at, pattern, &reason))
    }

    /// `/pattern/word`, `//pattern/word`
    fn replaced(&mut self, name: &str) -> Result<String, Failure> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let at = self.offset();
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = self.lookup(name);
        let Some(value) = value else {
            return Ok(if self.lexer.keep_unset {
                format!("${{{name}/{pattern}/{replacement}}}")
            } else {
                String::new()
            });
        };
        let compiled =
            Pattern::new(&pattern, true, false).map_err(|reason| bad_pattern(at, &pattern, &reason))?;
        Ok(compiled.replace(&value, &replacement, all))
    }

    /// The text of a substitution up to its closing character.
    fn operand(&mut self, stop: char, raw_escapes: bool) -> Result<String, Failure> {
        self.operand_begins();
        self.until(Some(stop), raw_escapes, None).map_err(|failure| match stop {
            _ if !failure.unclosed => failure,
            '}' => self.missing_brace(),
            _ => self.fail("the pattern has no end").expected("`/` and a replacement"),
        })
    }

    fn missing_brace(&self) -> Failure {
        self.fail("`${` is never closed").expected("a closing `}`")
    }

    /// A variable's name: letters, digits and `_`; digits only if it starts with one; or one special character.
    fn name(&mut self) -> &'a str {
        let start = self.offset();
        match self.peek() {
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => drop(self.next()),
            Some(c) if is_digit(c) => self.skip(is_digit),
            _ => self.skip(|c| c.is_alphabetic() || is_digit(c) || c == '_'),
        }
        self.since(start)
    }

    fn skip(&mut self, belongs: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&belongs) {
            self.next();
        }
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())
}

fn unsupported(at: usize, modifier: &str) -> Failure {
    Failure::new(at, format!("there is no modifier `{modifier}`")).expected(MODIFIERS)
}

fn bad_pattern(at: usize, pattern: &str, reason: &str) -> Failure {
    Failure::new(at, format!("cannot read the pattern `{pattern}`: {reason}"))
}
