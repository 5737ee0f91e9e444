//! One pattern: parsed once into tokens, matched by moving a set of positions through the path.
//!
//! ```text
//! src/**/[a-c]*.go   ──▶   Text("src/") Folders Class(a-c) Segment Text(".go")
//! ```
//!
//! A position set starts as {0}. Each token maps it to the positions that can follow; the path matches if its end is in
//! the set after the last token. The set never grows beyond the path's length, so neither does the work per token.

use crate::{Error, MAX_PATTERN};

/// A parsed pattern. It matches whole paths only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// These characters and no other.
    Text(String),
    /// `?`: one character other than `/`.
    One,
    /// `*`: any characters other than `/`.
    Segment,
    /// `[…]`: one character in (or, negated, outside) the ranges. May match `/`.
    Class { negated: bool, ranges: Vec<(char, char)> },
    /// `**/`: nothing, or anything that ends in `/`.
    Folders,
    /// `**` at the end: everything.
    Rest,
    /// Matches nowhere.
    Never,
}

/// How a pattern is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Go's `filepath.Match`.
    Match,
    /// Docker's ignore patterns: with `**`, and `^` stands for the start of the path.
    Ignore,
}

impl Glob {
    /// Parses a pattern of Go's `filepath.Match`. `**` means the same as `*`.
    ///
    /// # Errors
    /// A pattern that Go refuses as malformed, or one longer than [`MAX_PATTERN`].
    pub fn new(pattern: &str) -> Result<Self, Error> {
        Self::parse(pattern, Dialect::Match)
    }

    /// Parses a pattern of an ignore file, in which `**` crosses folders.
    pub(crate) fn ignore(pattern: &str) -> Result<Self, Error> {
        Self::parse(pattern, Dialect::Ignore)
    }

    fn parse(pattern: &str, dialect: Dialect) -> Result<Self, Error> {
        if pattern.len() > MAX_PATTERN {
            return Err(Error::TooLong(pattern.len()));
        }
        let syntax = || Error::Syntax(pattern.to_owned());
        let mut tokens = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '*' if dialect == Dialect::Ignore && rest.next_if_eq(&'*').is_some() => {
                    rest.next_if_eq(&'/');
                    tokens.push(if rest.peek().is_none() { Token::Rest } else { Token::Folders });
                }
                '*' => {
                    if tokens.last() != Some(&Token::Segment) {
                        tokens.push(Token::Segment);
                    }
                }
                '?' => tokens.push(Token::One),
                '[' => tokens.push(class(&mut rest).ok_or_else(syntax)?),
                '\\' => text(&mut tokens, rest.next().ok_or_else(syntax)?),
                '^' if dialect == Dialect::Ignore => {
                    if !tokens.is_empty() {
                        tokens.push(Token::Never);
                    }
                }
                c => text(&mut tokens, c),
            }
        }
        Ok(Self { tokens })
    }

    /// Whether the pattern matches the whole of `path`.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let mut tokens = &self.tokens[..];
        let mut start = 0;
        // Most paths part ways with a pattern in its first characters: no allocation for those.
        if let Some((Token::Text(text), rest)) = tokens.split_first() {
            if !path.starts_with(text.as_str()) {
                return false;
            }
            (start, tokens) = (text.len(), rest);
        }
        if tokens.is_empty() {
            return start == path.len();
        }
        let (mut here, mut next) = (vec![start], Vec::new());
        for token in tokens {
            next.clear();
            token.advance(path, &here, &mut next);
            std::mem::swap(&mut here, &mut next);
            if here.is_empty() {
                return false;
            }
        }
        here.last() == Some(&path.len())
    }
}

impl Token {
    /// Puts into `to`, in ascending order and once each, the positions reached from `from` (ascending too).
    fn advance(&self, path: &str, from: &[usize], to: &mut Vec<usize>) {
        match self {
            Self::Text(text) => {
                to.extend(
                    from.iter().filter(|&&p| path[p..].starts_with(text.as_str())).map(|p| p + text.len()),
                );
            }
            Self::One => one_char(path, from, to, |c| c != '/'),
            Self::Class { negated, ranges } => {
                one_char(path, from, to, |c| ranges.iter().any(|&(lo, hi)| lo <= c && c <= hi) != *negated);
            }
            Self::Segment => run(path, from, to, '/', |_| true),
            Self::Rest => run(path, from, to, '\n', |_| true),
            Self::Folders => {
                run(path, from, to, '\n', |before| before == Some('/'));
                to.extend_from_slice(from);
                to.sort_unstable();
                to.dedup();
            }
            Self::Never => {}
        }
    }
}

fn one_char(path: &str, from: &[usize], to: &mut Vec<usize>, accept: impl Fn(char) -> bool) {
    for &p in from {
        if let Some(c) = path[p..].chars().next().filter(|&c| accept(c)) {
            to.push(p + c.len_utf8());
        }
    }
}

/// From each position, the positions reachable without crossing `stop`; of these, the ones whose preceding
/// character since the start is accepted (`None` at the start itself).
fn run(path: &str, from: &[usize], to: &mut Vec<usize>, stop: char, accept: impl Fn(Option<char>) -> bool) {
    let mut covered = None;
    for &p in from {
        // What an earlier start reached includes all that a later start within its run can.
        if covered.is_some_and(|end| p <= end) {
            continue;
        }
        let mut before = None;
        let mut at = p;
        loop {
            if accept(before) {
                to.push(at);
            }
            match path[at..].chars().next() {
                Some(c) if c != stop => {
                    before = Some(c);
                    at += c.len_utf8();
                }
                _ => break,
            }
        }
        covered = Some(at);
    }
}

fn text(tokens: &mut Vec<Token>, c: char) {
    match tokens.last_mut() {
        Some(Token::Text(text)) => text.push(c),
        _ => tokens.push(Token::Text(c.into())),
    }
}

/// What follows a `[`, up to and with its `]`. `None` if it is malformed.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let lo = class_char(rest)?;
        let hi = if rest.next_if_eq(&'-').is_some() { class_char(rest)? } else { lo };
        // A reversed range is legal, and empty.
        ranges.push((lo, hi));
    }
}

fn class_char(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    let c = match rest.next()? {
        '-' | ']' => return None,
        '\\' => rest.next()?,
        c => c,
    };
    // A class that ends here is never closed.
    rest.peek().map(|_| c)
}

/// Whether `name` matches `pattern` by the rules of Go's `filepath.Match`.
///
/// # Errors
/// See [`Glob::new`].
pub fn glob_match(pattern: &str, name: &str) -> Result<bool, Error> {
    Ok(Glob::new(pattern)?.matches(name))
}

/// Whether a path holds an unescaped `*`, `?` or `[`.
#[must_use]
pub fn has_wildcard(path: &str) -> bool {
    let mut chars = path.bytes();
    while let Some(c) = chars.next() {
        match c {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

/// Splits a clean path before its first component with a wildcard: the plain folder, and the rest, empty if there is
/// no wildcard. `/a/b*/c` becomes (`/a`, `b*/c`); `/*` becomes (`/`, `*`).
#[must_use]
pub fn split_wildcard(path: &str) -> (&str, &str) {
    let mut start = 0;
    for part in path.split('/') {
        if has_wildcard(part) {
            let folder = match start {
                0 => "",
                1 => "/",
                n => &path[..n - 1],
            };
            return (folder, &path[start..]);
        }
        start += part.len() + 1;
    }
    (path, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_match() {
        for (pattern, name, want) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a??b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[\\-x]", "-", true),
            ("[-]x", "x", false),
            ("**", "a/b", false),
            ("*x", "xxx", true),
            ("[b-a]", "a", false),
            ("", "", true),
            ("", "a", false),
        ] {
            if pattern == "[-]x" {
                assert!(glob_match(pattern, name).is_err());
                continue;
            }
            assert_eq!(glob_match(pattern, name), Ok(want), "{pattern:?} {name:?}");
        }
    }

    #[test]
    fn malformed_patterns_are_named() {
        for pattern in
            ["[", "[]", "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[a", "[^", "[^bc", "a[", "[a\\"]
        {
            assert_eq!(Glob::new(pattern), Err(Error::Syntax(pattern.to_owned())), "{pattern:?}");
        }
        assert_eq!(Glob::new(&"a".repeat(MAX_PATTERN + 1)), Err(Error::TooLong(MAX_PATTERN + 1)));
    }

    #[test]
    fn hostile_patterns_end_quickly() {
        let stars = Glob::new(&"*a".repeat(2000)).expect("valid");
        assert!(!stars.matches(&"a".repeat(1999)));
        let folders = Glob::ignore(&"**/a/".repeat(1000)).expect("valid");
        assert!(!folders.matches(&("a/".repeat(1900) + "b")));
    }

    #[test]
    fn wildcards_split_from_folders() {
        assert_eq!(split_wildcard("/a/b*/c"), ("/a", "b*/c"));
        assert_eq!(split_wildcard("/*"), ("/", "*"));
        assert_eq!(split_wildcard("*"), ("", "*"));
        assert_eq!(split_wildcard("/a/b"), ("/a/b", ""));
        assert_eq!(split_wildcard("/a\\*/[b]"), ("/a\\*", "[b]"));
    }
}
