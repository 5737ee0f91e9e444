//! JSON arrays of strings, with the place of each string.
//!
//! What isn't valid JSON is no error: it's the shell form of the instruction (`[ -f x ] && y`).

use std::borrow::Cow;
use std::ops::Range;

/// What a text that starts with `[` turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Array<'a> {
    /// Strings, each with the bytes of its literal. Those without escapes are part of the text.
    Strings(Vec<(Cow<'a, str>, Range<usize>)>),
    /// Valid, but holds something else too.
    Other,
    /// Not JSON.
    Invalid,
}

/// Reads an array; blanks may stand before it and after it.
pub(super) fn parse_array(text: &str) -> Array<'_> {
    let body = text.trim_start();
    if !body.starts_with('[') {
        return Array::Invalid;
    }
    let mut reader = Reader { text, pos: text.len() - body.len() };
    match reader.strings() {
        Some(strings) => Array::Strings(strings),
        None if serde_json::from_str::<Vec<serde::de::IgnoredAny>>(body).is_ok() => Array::Other,
        None => Array::Invalid,
    }
}

struct Reader<'a> {
    text: &'a str,
    pos: usize,
}

impl<'a> Reader<'a> {
    fn strings(&mut self) -> Option<Vec<(Cow<'a, str>, Range<usize>)>> {
        let mut strings = Vec::new();
        self.eat(b'[')?;
        self.blanks();
        if self.eat(b']').is_none() {
            loop {
                self.blanks();
                let start = self.pos;
                let string = self.string()?;
                strings.push((string, start..self.pos));
                self.blanks();
                if self.eat(b',').is_none() {
                    break;
                }
            }
            self.eat(b']')?;
        }
        self.blanks();
        (self.pos == self.text.len()).then_some(strings)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.pos += 1)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.pos += 1;
        }
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.eat(b'"')?;
        let mut string = Cow::Borrowed("");
        loop {
            let rest = &self.text[self.pos..];
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            // The first piece is borrowed; what follows an escape makes a copy of all.
            string += &rest[..plain];
            self.pos += plain;
            match self.peek()? {
                b'"' => {
                    self.pos += 1;
                    return Some(string);
                }
                b'\\' => {
                    self.pos += 1;
                    string.to_mut().push(self.escape()?);
                }
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.pos += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return None,
        })
    }

    /// After `\u`; half a surrogate pair becomes the replacement character, as in Go.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.pos..].starts_with("\\u") {
            let before = self.pos;
            self.pos += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            }
            self.pos = before;
        }
        Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.pos..self.pos + 4)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.pos += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(text: &str) -> Vec<String> {
        match parse_array(text) {
            Array::Strings(strings) => strings.into_iter().map(|(s, _)| s.into_owned()).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn strings_with_escapes() {
        assert_eq!(strings(r#" [ "a" , "b\"\\\/\b\f\n\r\t" ] "#), ["a", "b\"\\/\u{8}\u{c}\n\r\t"]);
        assert_eq!(
            strings(r#"["\u00fc\ud83d\ude00","\ud83d","\ud83dx","\ud83d\u0041"]"#),
            ["ü😀", "\u{fffd}", "\u{fffd}x", "\u{fffd}A"]
        );
        assert!(strings("[]").is_empty());
    }

    #[test]
    fn literals_have_places() {
        let Array::Strings(found) = parse_array(r#"["a", "é"]"#) else { panic!() };
        assert_eq!(found[1].1, 6..10);
    }

    #[test]
    fn what_is_no_array_of_strings() {
        for other in ["[1]", r#"["a", null]"#, r#"[["a"]]"#, r#"[{"a": 1}]"#, "[true]"] {
            assert_eq!(parse_array(other), Array::Other, "{other}");
        }
        for invalid in [
            "",
            "a",
            "[ -f x ]",
            "['a']",
            r#"["a",]"#,
            r#"["a"] x"#,
            r#"["a"#,
            "[\"a\tb\"]",
            r#"["\x"]"#,
            r#"["\u12"]"#,
        ] {
            assert_eq!(parse_array(invalid), Array::Invalid, "{invalid}");
        }
    }
}
