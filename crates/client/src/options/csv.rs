//! `type=local,dest=out,"name=a,b"`: one record of comma-separated values, each `key=value`.

use std::collections::BTreeMap;

use crate::Error;

/// Keys and values.
pub type Attrs = BTreeMap<String, String>;

/// Splits a record. A field in double quotes may hold commas, and quotes that are doubled.
///
/// # Errors
/// [`Error::Usage`] for quotes that do not match.
pub fn parse_fields(text: &str) -> Result<Vec<String>, Error> {
    let bad = |problem: &str| Error::Usage(format!("invalid value {text:?}: {problem}"));
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, tail) = rest.split_once(',').map_or((rest, None), |(f, t)| (f, Some(t)));
            if field.contains('"') {
                return Err(bad("a quote may only open a field"));
            }
            fields.push(field.to_owned());
            match tail {
                Some(tail) => rest = tail,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        rest = quoted;
        loop {
            let (part, tail) = rest.split_once('"').ok_or_else(|| bad("a quote is not closed"))?;
            field.push_str(part);
            match tail.strip_prefix('"') {
                Some(tail) => {
                    field.push('"');
                    rest = tail;
                }
                None => {
                    rest = tail;
                    break;
                }
            }
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(tail) => rest = tail,
            None if rest.is_empty() => return Ok(fields),
            None => return Err(bad("text follows a closing quote")),
        }
    }
}

/// Splits a record into keys, in lower case, and values. The last of equal keys counts.
///
/// # Errors
/// [`Error::Usage`] for fields that are not `key=value`.
pub fn parse_attrs(text: &str) -> Result<Attrs, Error> {
    let pair = |field: String| match field.split_once('=') {
        Some((key, value)) => Ok((key.to_lowercase(), value.to_owned())),
        None => Err(Error::Usage(format!("invalid value {field}: it must be a key=value pair"))),
    };
    parse_fields(text)?.into_iter().map(pair).collect()
}

/// The spellings of true and false that BuildKit's clients take.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_commas() {
        assert_eq!(parse_fields(r#"type=image,"name=a,b",x=1"#).unwrap(), ["type=image", "name=a,b", "x=1"]);
        assert_eq!(parse_fields(r#""a ""b"" c""#).unwrap(), [r#"a "b" c"#]);
        assert_eq!(parse_fields("a,").unwrap(), ["a", ""]);
    }

    #[test]
    fn stray_quotes_are_errors() {
        for text in [r#"a"b"#, r#""a"#, r#""a"b"#] {
            assert!(parse_fields(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_lowered_and_values_are_not() {
        let attrs = parse_attrs("Type=OCI,Dest=A=B").unwrap();
        assert_eq!(attrs["type"], "OCI");
        assert_eq!(attrs["dest"], "A=B");
        assert!(parse_attrs("dest").is_err());
    }
}
