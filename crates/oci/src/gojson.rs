//! JSON bytes as Go's `encoding/json` writes them.
//!
//! `serde_json` differs from Go in one thing that matters for digests: Go escapes `<`, `>`, `&` and the line
//! separators U+2028 and U+2029 inside strings. None of these can stand outside of a string, so the escaping is
//! done on the encoded bytes. Field order, omitted empties and base64 are the business of the types.

use serde::Serialize;

/// Encodes `value` without white space, as `json.Marshal` does.
///
/// # Errors
/// When the value's own `Serialize` fails, or a map has keys that are not strings.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    Ok(escape(serde_json::to_vec(value)?))
}

/// Encodes `value` indented by two spaces a level, as `json.MarshalIndent(v, "", "  ")` does.
///
/// # Errors
/// As [`to_vec`].
pub fn to_vec_indent<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    Ok(escape(serde_json::to_vec_pretty(value)?))
}

/// Encodes `value` as [`to_vec`], as text.
///
/// # Errors
/// As [`to_vec`].
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let bytes = to_vec(value)?;
    // The encoder emits UTF-8 only, and the escapes are ASCII.
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

fn escape(json: Vec<u8>) -> Vec<u8> {
    let special = |b: &u8| matches!(b, b'<' | b'>' | b'&' | 0xe2);
    if !json.iter().any(special) {
        return json;
    }
    let mut out = Vec::with_capacity(json.len() + 64);
    let mut rest = json.as_slice();
    while let Some(at) = rest.iter().position(special) {
        let (before, tail) = rest.split_at(at);
        out.extend_from_slice(before);
        let (text, len): (&[u8], usize) = match tail {
            [b'<', ..] => (b"\\u003c", 1),
            [b'>', ..] => (b"\\u003e", 1),
            [b'&', ..] => (b"\\u0026", 1),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            _ => (&tail[..1], 1),
        };
        out.extend_from_slice(text);
        rest = &tail[len..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_go() {
        let s = "a<b>&c\u{2028}\u{2029}\u{e2}€\u{7f}\u{8}\u{c}\n\t\u{1}\"\\/";
        assert_eq!(
            to_string(s).unwrap(),
            "\"a\\u003cb\\u003e\\u0026c\\u2028\\u2029\u{e2}€\u{7f}\\b\\f\\n\\t\\u0001\\\"\\\\/\""
        );
    }

    #[test]
    fn indents_as_go() {
        let v = serde_json::json!({"a": [], "b": {}, "c": [1]});
        assert_eq!(
            String::from_utf8(to_vec_indent(&v).unwrap()).unwrap(),
            "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1\n  ]\n}"
        );
    }
}
