//! The patterns of `#`, `%` and `/`: `*` any characters, `?` one character, `\` makes them literal.
//! Neither matches a newline.

use regex::Regex;

/// A compiled pattern.
pub(super) struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern; `greedy` stars match as much as they can, `anchored` ones only at the start.
    ///
    /// The error says what is wrong.
    pub(super) fn new(pattern: &str, greedy: bool, anchored: bool) -> Result<Self, String> {
        let mut out = String::with_capacity(pattern.len() + 4);
        if anchored {
            out.push('^');
        }
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' => out.push_str(if greedy { ".*" } else { ".*?" }),
                '?' => out.push('.'),
                // The escape of a delimiter is not part of the pattern.
                '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\')) => {
                        out.push('\\');
                        out.push(escaped);
                    }
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("the escape at the end escapes nothing".to_owned()),
                },
                c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        Regex::new(&out).map(Self).map_err(|_| "the pattern is too large".to_owned())
    }

    /// Replaces the first match, or all.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool) -> String {
        let limit = if all { 0 } else { 1 };
        self.0.replacen(value, limit, regex::NoExpand(replacement)).into_owned()
    }
}

/// `value` without the shortest or longest prefix that matches.
pub(super) fn strip_prefix(pattern: &str, value: &str, greedy: bool) -> Result<String, String> {
    let found = Pattern::new(pattern, greedy, true)?.0.find(value).map_or(0, |m| m.end());
    Ok(value[found..].to_owned())
}

/// `value` without the shortest or longest suffix that matches: a prefix of both turned around.
pub(super) fn strip_suffix(pattern: &str, value: &str, greedy: bool) -> Result<String, String> {
    let value: String = value.chars().rev().collect();
    Ok(strip_prefix(&reversed(pattern), &value, greedy)?.chars().rev().collect())
}

/// A pattern turned around; escapes stay before what they escape.
fn reversed(pattern: &str) -> String {
    let mut units: Vec<(Option<char>, char)> = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some(escaped)) => units.push((Some('\\'), escaped)),
            _ => units.push((None, c)),
        }
    }
    let mut out = String::with_capacity(pattern.len());
    for (escape, c) in units.into_iter().rev() {
        out.extend(escape);
        out.push(c);
    }
    out
}
