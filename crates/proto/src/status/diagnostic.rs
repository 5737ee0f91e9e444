//! What is wrong in a source file, told as a compiler would: more than the reference's clients know of.

use serde_json::{Map, Value, json};

use super::put_text;

/// One error in a source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// Where it begins: a line from 1, a byte of it from 0. Line 0 is no place.
    pub start: (u32, u32),
    /// Where it ends: after the last byte.
    pub end: (u32, u32),
    /// What would have been right, as a phrase; empty if that is not known.
    pub expected: String,
    /// The nearest known word; empty if none is near.
    pub suggestion: String,
}

pub(super) fn to_json(list: &[Diagnostic]) -> Value {
    let one = |d: &Diagnostic| {
        let mut object = Map::new();
        put_text(&mut object, "message", &d.message);
        object.insert("start".to_owned(), json!([d.start.0, d.start.1]));
        object.insert("end".to_owned(), json!([d.end.0, d.end.1]));
        put_text(&mut object, "expected", &d.expected);
        put_text(&mut object, "suggestion", &d.suggestion);
        Value::Object(object)
    };
    list.iter().map(one).collect()
}

pub(super) fn from_json(value: &Value) -> Option<Vec<Diagnostic>> {
    let one = |value: &Value| {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let place = |key: &str| {
            let number = |i: usize| u32::try_from(value.get(key)?.get(i)?.as_u64()?).ok();
            Some((number(0)?, number(1)?))
        };
        Some(Diagnostic {
            message: text("message"),
            start: place("start")?,
            end: place("end")?,
            expected: text("expected"),
            suggestion: text("suggestion"),
        })
    };
    value.as_array()?.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let list = vec![
            Diagnostic {
                message: "unknown instruction: RUNN".into(),
                start: (2, 0),
                end: (2, 4),
                suggestion: "RUN".into(),
                ..Diagnostic::default()
            },
            Diagnostic { message: "no".into(), expected: "FROM".into(), ..Diagnostic::default() },
        ];
        let json = to_json(&list);
        assert_eq!(
            json.to_string(),
            r#"[{"message":"unknown instruction: RUNN","start":[2,0],"end":[2,4],"suggestion":"RUN"},{"message":"no","start":[0,0],"end":[0,0],"expected":"FROM"}]"#
        );
        assert_eq!(from_json(&json), Some(list));
        assert_eq!(from_json(&json!([{"start": [-1, 0], "end": [1, 0]}])), None);
    }
}
