//! The values of a file, as what their places want.
//!
//! The rules are those of Go's `encoding/json` behind a YAML reader, which the files were made for: the case of field names
//! does not matter, what is null is as if it was not there, and text may be written as a number or truth value.

use std::collections::{BTreeMap, BTreeSet};

use crate::decode::{Error, wrong};
use crate::node::Node;

/// A value and where it stands.
pub(crate) struct Value {
    node: Node,
    /// Such as `devices[0].containerEdits`; empty for the file.
    pub(crate) path: String,
}

impl Value {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, path: String::new() }
    }

    fn wrong(&self, problem: impl Into<String>) -> Error {
        let path = if self.path.is_empty() { "the file" } else { &self.path };
        wrong(path, problem)
    }

    fn is_null(&self) -> bool {
        matches!(&self.node, Node::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    pub(crate) fn text(self) -> Result<String, Error> {
        match self.node {
            Node::Scalar { text, plain: false } => Ok(text),
            // A truth value or number is written anew.
            Node::Scalar { text, plain: true } => Ok(match (truth(&text), number(&text)) {
                (Some(value), _) => value.to_string(),
                (None, Some(value)) => value.to_string(),
                (None, None) => text,
            }),
            _ => Err(self.wrong("want text")),
        }
    }

    pub(crate) fn truth(self) -> Result<bool, Error> {
        match &self.node {
            Node::Scalar { text, plain: true } if truth(text).is_some() => Ok(truth(text) == Some(true)),
            _ => Err(self.wrong("want true or false")),
        }
    }

    pub(crate) fn number(self) -> Result<u32, Error> {
        match &self.node {
            Node::Scalar { text, plain: true } => {
                let number = number(text).and_then(|number| u32::try_from(number).ok());
                number.ok_or_else(|| self.wrong(format!("{text:?}: want a number from 0 to {}", u32::MAX)))
            }
            _ => Err(self.wrong("want a number")),
        }
    }

    pub(crate) fn list<T>(self, one: impl Fn(Self) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        match self.node {
            Node::Sequence(all) => {
                let path = self.path;
                let item = |(n, node)| one(Self { node, path: format!("{path}[{n}]") });
                all.into_iter().enumerate().map(item).collect()
            }
            _ => Err(self.wrong("want a list")),
        }
    }

    /// Its entries, without those that are null.
    fn entries(self) -> Result<Vec<(String, Self)>, Error> {
        let Node::Mapping(all) = self.node else { return Err(self.wrong("want fields")) };
        let mut seen = BTreeSet::<String>::new();
        let mut out = Vec::with_capacity(all.len());
        for (name, node) in all {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            if !seen.insert(name.clone()) {
                return Err(wrong(path, "given twice"));
            }
            let value = Self { node, path };
            if !value.is_null() {
                out.push((name, value));
            }
        }
        Ok(out)
    }

    /// Its fields, by their names in small letters.
    pub(crate) fn fields(self, mut field: impl FnMut(&str, Self) -> Result<(), Error>) -> Result<(), Error> {
        for (name, value) in self.entries()? {
            field(&name.to_ascii_lowercase(), value)?;
        }
        Ok(())
    }

    pub(crate) fn unknown(&self) -> Error {
        self.wrong("there is no such field")
    }

    pub(crate) fn map(self) -> Result<BTreeMap<String, String>, Error> {
        self.entries()?.into_iter().map(|(key, value)| Ok((key, value.text()?))).collect()
    }
}

/// A truth value as YAML 1.1 spells it.
fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Some(false),
        _ => None,
    }
}

/// A whole number as YAML 1.1 spells it: `0660` is octal.
fn number(text: &str) -> Option<i64> {
    let digits = text.replace('_', "");
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => (&digits[2..], 8),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // `from_str_radix` takes a sign of its own.
    if digits.starts_with(['+', '-']) { None } else { Some(sign * i64::from_str_radix(digits, radix).ok()?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_yaml_1_1() {
        for (text, value) in [
            ("0", 0),
            ("0660", 0o660),
            ("0o660", 0o660),
            ("0x1F", 31),
            ("0b11", 3),
            ("1_000", 1000),
            ("+7", 7),
        ] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        assert_eq!((number("-0x10"), number("-0")), (Some(-16), Some(0)));
        for text in ["", "-", "--1", "1.5", "0x", "08", "0x-1", "0+7", "99999999999999999999", "1e3", "a1"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
