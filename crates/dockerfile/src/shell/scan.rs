//! Reading a word from left to right: quotes, escapes, the blanks between words.

use std::collections::BTreeSet;

use super::{Failure, Lexer, MAX_DEPTH, MAX_EXPANSION, Variables};

/// Words in the making.
#[derive(Default)]
pub(super) struct WordList {
    words: Vec<String>,
    current: String,
}

impl WordList {
    /// A character that separates words when it is blank.
    fn push(&mut self, c: char) {
        if !c.is_whitespace() {
            self.current.push(c);
        } else if !self.current.is_empty() {
            self.words.push(std::mem::take(&mut self.current));
        }
    }

    fn push_split(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c));
    }

    fn push_whole(&mut self, text: &str) {
        self.current.push_str(text);
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.words.push(self.current);
        }
        self.words
    }
}

/// Which names are noted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Track {
    All,
    Unmatched,
    Nothing,
}

/// One expansion at work.
pub(super) struct Scan<'a> {
    pub(super) lexer: &'a Lexer,
    pub(super) matched: BTreeSet<String>,
    pub(super) unmatched: BTreeSet<String>,
    pub(super) track: Track,
    vars: &'a dyn Variables,
    text: &'a str,
    pos: usize,
    depth: usize,
    /// How many substitutions with an operand were read.
    operands: usize,
    /// Bytes that values may still add.
    budget: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(lexer: &'a Lexer, text: &'a str, vars: &'a dyn Variables) -> Self {
        // A byte order mark at the start is no text.
        let pos = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self {
            lexer,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
            track: Track::All,
            vars,
            text,
            pos,
            depth: 0,
            operands: 0,
            budget: MAX_EXPANSION,
        }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.text[self.pos..].chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        Some(c)
    }

    /// What was read since an offset.
    pub(super) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.pos]
    }

    pub(super) fn offset(&self) -> usize {
        self.pos
    }

    /// Notes that a substitution with an operand begins.
    pub(super) fn operand_begins(&mut self) {
        self.operands += 1;
    }

    pub(super) fn at_end(&self) -> bool {
        self.pos == self.text.len()
    }

    /// A failure where the scan stands.
    pub(super) fn fail(&self, reason: impl Into<String>) -> Failure {
        Failure::new(self.pos.min(self.text.len()), reason)
    }

    /// Looks a variable up and remembers whether it was there.
    pub(super) fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.vars.get(name);
        let seen = match (&value, self.track) {
            (Some(_), Track::All) => Some(&mut self.matched),
            (None, Track::All | Track::Unmatched) => Some(&mut self.unmatched),
            _ => None,
        };
        if let Some(seen) = seen.filter(|seen| !seen.contains(name)) {
            seen.insert(name.to_owned());
        }
        value.map(std::borrow::Cow::into_owned)
    }

    /// Takes the size of a substituted text off the budget.
    pub(super) fn spend(&mut self, text: String) -> Result<String, Failure> {
        self.budget = self
            .budget
            .checked_sub(text.len())
            .ok_or_else(|| self.fail(format!("the result is larger than {MAX_EXPANSION} bytes")))?;
        Ok(text)
    }

    /// Reads up to `stop` (and past it), or to the end when there is none.
    pub(super) fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        mut words: Option<&mut WordList>,
    ) -> Result<String, Failure> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fail(format!("substitutions nest deeper than {MAX_DEPTH}")));
        }
        // What a word expands to is seldom longer than the word.
        let mut result = String::with_capacity(if stop.is_none() { self.text.len() - self.pos } else { 0 });
        loop {
            if words.is_none() {
                result.push_str(self.plain_run(stop));
            }
            let Some(c) = self.peek() else { break };
            if stop == Some(c) {
                self.next();
                self.depth -= 1;
                return Ok(result);
            }
            let operands = self.operands;
            let piece = match c {
                '$' => Some(self.dollar()?),
                '<' => Some(self.less_than()),
                '\'' if !self.lexer.ignore_quotes => Some(self.single_quoted()?),
                '"' if !self.lexer.ignore_quotes => Some(self.double_quoted(raw_escapes)?),
                _ => None,
            };
            match piece {
                Some(piece) => {
                    result.push_str(&piece);
                    if operands != self.operands {
                        words.iter_mut().for_each(|words| words.current.clear());
                    }
                    match &mut words {
                        Some(words) if c == '$' => words.push_split(&piece),
                        Some(words) => words.push_whole(&piece),
                        None => {}
                    }
                }
                None => self.plain(c, raw_escapes, &mut result, words.as_deref_mut()),
            }
        }
        self.depth -= 1;
        match stop {
            None => Ok(result),
            Some(_) => Err(Failure { unclosed: true, ..self.fail("`${` is never closed") }),
        }
    }

    /// What comes up to the next character that may mean something.
    fn plain_run(&mut self, stop: Option<char>) -> &'a str {
        let rest = &self.text[self.pos..];
        let (escape, stop) = (self.lexer.escape, stop.unwrap_or('$'));
        if !escape.is_ascii() {
            return "";
        }
        let special = |b: u8| {
            matches!(b, b'$' | b'<' | b'\'' | b'"') || char::from(b) == escape || char::from(b) == stop
        };
        let length = rest.bytes().position(special).unwrap_or(rest.len());
        self.pos += length;
        &rest[..length]
    }

    /// A character without meaning, or the escape character and what it escapes.
    fn plain(&mut self, c: char, raw_escapes: bool, result: &mut String, words: Option<&mut WordList>) {
        self.next();
        if c != self.lexer.escape {
            result.push(c);
            if let Some(words) = words {
                words.push(c);
            }
            return;
        }
        let start = result.len();
        if raw_escapes {
            result.push(c);
        }
        // An escape character at the very end escapes nothing.
        if let Some(escaped) = self.next() {
            result.push(escaped);
        }
        if let Some(words) = words {
            words.push_whole(&result[start..]);
        }
    }

    /// `'…'`
    fn single_quoted(&mut self) -> Result<String, Failure> {
        let open = self.pos;
        let body_start = open + 1;
        let Some(length) = self.text[body_start..].find('\'') else {
            return Err(Failure::new(open, "the single quote is never closed").expected("a matching `'`"));
        };
        let close = body_start + length;
        self.pos = close + 1;
        let range = if self.lexer.raw_quotes { open..close + 1 } else { body_start..close };
        Ok(self.text[range].to_owned())
    }

    /// `"…"`
    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, Failure> {
        let open = self.pos;
        self.next();
        let mut result = String::new();
        if self.lexer.raw_quotes {
            result.push('"');
        }
        let escape = self.lexer.escape;
        loop {
            let rest = &self.text[self.pos..];
            let plain = rest.find(['"', '$', escape]).unwrap_or(rest.len());
            result.push_str(&rest[..plain]);
            self.pos += plain;
            match self.peek() {
                None => {
                    return Err(
                        Failure::new(open, "the double quote is never closed").expected("a matching `\"`")
                    );
                }
                Some('"') => {
                    self.next();
                    if self.lexer.raw_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => result.push_str(&self.dollar()?),
                Some(_) => {
                    self.next();
                    self.quoted_escape(raw_escapes, &mut result);
                }
            }
        }
    }

    /// What follows an escape character between double quotes: it escapes three characters, and stays before others.
    fn quoted_escape(&mut self, raw_escapes: bool, result: &mut String) {
        let escape = self.lexer.escape;
        if raw_escapes {
            result.push(escape);
        }
        match self.peek() {
            None => {}
            Some(c) if c == '"' || c == '$' || c == escape => {
                self.next();
                result.push(c);
            }
            Some(_) => result.push(escape),
        }
    }

    /// `<`, or `<<` with the blanks that may stand between it and the word of a heredoc.
    fn less_than(&mut self) -> String {
        let start = self.pos;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while matches!(self.peek(), Some('\t' | '\r' | ' ')) {
                self.next();
            }
        }
        self.text[start..self.pos].to_owned()
    }
}
