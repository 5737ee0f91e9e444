//! `--format`: the part of Go's templates that people format records with.
//!
//! Text, `{{.Field.Field}}`, `{{json X}}`, `{{len X}}`, `{{"text"}}`, `{{range X}}…{{else}}…{{end}}`, `{{if X}}…{{else}}…{{end}}` and
//! comments; `{{-` and `-}}` trim. A field is found by its name in JSON, whatever the case of its letters. `json` alone means
//! `{{json .}}`.

use kiln_client::Error;
use serde_json::Value;

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    Print(Expr),
    Range(Expr, Vec<Node>, Vec<Node>),
    If(Expr, Vec<Node>, Vec<Node>),
}

#[derive(Debug, PartialEq, Eq)]
enum Expr {
    Path(Vec<String>),
    Text(String),
    Json(Box<Expr>),
    Len(Box<Expr>),
}

/// Deeper than this nobody nests.
const MAX_DEPTH: usize = 32;

/// Fills a template in.
///
/// # Errors
/// [`Error::Usage`] for what the template asks for and there is not.
pub(crate) fn render(template: &str, data: &Value) -> Result<String, Error> {
    let template = if template == "json" { "{{json .}}" } else { template };
    let bad = |problem: String| Error::Usage(format!("template {template:?}: {problem}"));
    let mut tokens = tokens(template).map_err(bad)?.into_iter();
    let (nodes, end) = parse(&mut tokens, 0).map_err(bad)?;
    if !end.is_empty() {
        return Err(bad(format!("{end} without a beginning")));
    }
    let mut out = String::new();
    write(&nodes, data, &mut out).map_err(bad)?;
    Ok(out)
}

enum Token {
    Text(String),
    Action(String),
}

fn tokens(template: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = template;
    while let Some((text, tail)) = rest.split_once("{{") {
        let (action, mut after) = tail.split_once("}}").ok_or("{{ without }}")?;
        let (mut text, mut action) = (text, action.trim_matches(['\n', '\t', '\r']));
        if let Some(trimmed) = action.strip_prefix("- ") {
            (text, action) = (text.trim_end(), trimmed);
        }
        if let Some(trimmed) = action.strip_suffix(" -") {
            (after, action) = (after.trim_start(), trimmed);
        }
        tokens.push(Token::Text(text.to_owned()));
        if !action.trim().starts_with("/*") {
            tokens.push(Token::Action(action.trim().to_owned()));
        }
        rest = after;
    }
    tokens.push(Token::Text(rest.to_owned()));
    Ok(tokens)
}

/// Reads nodes up to `end` or `else`, which is returned, or the template's end.
fn parse(tokens: &mut std::vec::IntoIter<Token>, depth: usize) -> Result<(Vec<Node>, String), String> {
    if depth > MAX_DEPTH {
        return Err("it is nested too deeply".into());
    }
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) if text.is_empty() => continue,
            Token::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        if matches!(action.as_str(), "end" | "else") {
            return Ok((nodes, action));
        }
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        if !matches!(word, "range" | "if") {
            nodes.push(Node::Print(expression(&action)?));
            continue;
        }
        let condition = expression(rest.trim())?;
        let (body, mut end) = parse(tokens, depth + 1)?;
        let mut other = Vec::new();
        if end == "else" {
            (other, end) = parse(tokens, depth + 1)?;
        }
        if end != "end" {
            return Err(format!("{word} without end"));
        }
        nodes.push(if word == "range" {
            Node::Range(condition, body, other)
        } else {
            Node::If(condition, body, other)
        });
    }
    Ok((nodes, String::new()))
}

fn expression(text: &str) -> Result<Expr, String> {
    let inner =
        |rest: &str| expression(rest.trim().trim_start_matches('(').trim_end_matches(')')).map(Box::new);
    if let Some(rest) = text.strip_prefix("json ") {
        return Ok(Expr::Json(inner(rest)?));
    }
    if let Some(rest) = text.strip_prefix("len ") {
        return Ok(Expr::Len(inner(rest)?));
    }
    if text.starts_with('"') {
        return serde_json::from_str(text).map(Expr::Text).map_err(|_| format!("{text} is no text"));
    }
    if let Some(raw) = text.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
        return Ok(Expr::Text(raw.to_owned()));
    }
    let path = text.strip_prefix('.').ok_or_else(|| format!("{{{{{text}}}}} is not supported"))?;
    let fields: Vec<_> = path.split('.').filter(|field| !field.is_empty()).map(str::to_owned).collect();
    match fields.iter().all(|f| f.chars().all(|c| c.is_alphanumeric() || c == '_')) {
        true => Ok(Expr::Path(fields)),
        false => Err(format!("{{{{{text}}}}} is not supported")),
    }
}

fn write(nodes: &[Node], data: &Value, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(expr) => out.push_str(&shown(&evaluate(expr, data)?)),
            Node::If(expr, body, other) => {
                write(if is_true(&evaluate(expr, data)?) { body } else { other }, data, out)?;
            }
            Node::Range(expr, body, other) => {
                let items = match evaluate(expr, data)? {
                    Value::Array(items) => items,
                    Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(format!("range over {other}")),
                };
                if items.is_empty() {
                    write(other, data, out)?;
                }
                for item in &items {
                    write(body, item, out)?;
                }
            }
        }
    }
    Ok(())
}

fn evaluate(expr: &Expr, data: &Value) -> Result<Value, String> {
    Ok(match expr {
        Expr::Text(text) => Value::String(text.clone()),
        Expr::Json(inner) => Value::String(evaluate(inner, data)?.to_string()),
        Expr::Len(inner) => match evaluate(inner, data)? {
            Value::Array(items) => items.len().into(),
            Value::Object(map) => map.len().into(),
            Value::String(text) => text.len().into(),
            Value::Null => 0.into(),
            other => return Err(format!("len of {other}")),
        },
        Expr::Path(path) => path.iter().try_fold(data.clone(), |value, field| lookup(&value, field))?,
    })
}

fn lookup(value: &Value, field: &str) -> Result<Value, String> {
    let Value::Object(map) = value else {
        let kind = match value {
            Value::Array(_) => "a list: use {{range .}}",
            Value::Null => "nothing",
            _ => "a plain value",
        };
        return Err(format!("there is no field {field} in {kind}"));
    };
    let same = |key: &String| key.eq_ignore_ascii_case(field);
    let found = map.get(field).or_else(|| map.iter().find(|(key, _)| same(key)).map(|(_, value)| value));
    found.cloned().ok_or_else(|| {
        let known: Vec<_> = map.keys().map(String::as_str).collect();
        format!("there is no field {field}; there are {}", known.join(", "))
    })
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// As Go prints values: lists in brackets, maps as `map[key:value]`.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_are_formatted() {
        let data = json!([{"id": "a", "labels": {"k": "v"}, "platforms": []}, {"id": "b", "labels": {}, "platforms": ["p"]}]);
        let render = |template: &str| render(template, &data).unwrap();
        assert_eq!(render("json"), data.to_string());
        assert_eq!(render("{{range .}}{{.ID}} {{.Labels}}\n{{end}}"), "a map[k:v]\nb map[]\n");
        assert_eq!(render("{{len .}}{{range . -}} {{ if .Platforms }}+{{else}}-{{end}}{{end}}"), "2-+");
        assert_eq!(render(r#"{{range .}}{{json .Labels}}{{"\t"}}{{end}}"#), "{\"k\":\"v\"}\t{}\t");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let data = json!({"a": 1});
        for template in ["{{", "{{.b}}", "{{range .a}}x{{end}}", "{{if .a}}", "{{end}}", "{{printf .a}}"] {
            assert!(render(template, &data).is_err(), "{template}");
        }
    }
}
