//! YAML and JSON as one tree, with limits on its size.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deepest nesting.
const MAX_DEPTH: usize = 32;
/// Most values of a file, those that aliases repeat counted each time.
const MAX_NODES: usize = 200_000;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// Text; `plain` if it was not quoted, so that it may be a number, a truth value or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    /// In the order of the file; keys may repeat.
    Mapping(Vec<(String, Node)>),
}

/// What a collection that is being read has so far.
enum Open {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<(String, Node)>, key: Option<String> },
}

/// Reads one document.
pub(crate) fn read(text: &str, json: bool) -> Result<Node, String> {
    // JSON is YAML but for the tabs that some indent it by. What is no JSON in spite of its name may still be YAML.
    if json && let Ok(value) = serde_json::from_str(text) {
        return from_json(value, &mut 0);
    }
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        reader.event(event).map_err(|problem| format!("line {}: {problem}", span.start.line()))?;
    }
    reader.done.ok_or_else(|| "there is nothing in it".to_owned())
}

fn from_json(value: serde_json::Value, nodes: &mut usize) -> Result<Node, String> {
    use serde_json::Value;
    count(nodes, 1)?;
    // serde_json keeps the depth below 128 by itself.
    Ok(match value {
        Value::Null => plain("null"),
        Value::Bool(value) => plain(if value { "true" } else { "false" }),
        Value::Number(number) => plain(&number.to_string()),
        Value::String(text) => Node::Scalar { text, plain: false },
        Value::Array(all) => {
            Node::Sequence(all.into_iter().map(|value| from_json(value, nodes)).collect::<Result<_, _>>()?)
        }
        Value::Object(all) => {
            let all = all.into_iter().map(|(key, value)| Ok((key, from_json(value, nodes)?)));
            Node::Mapping(all.collect::<Result<_, String>>()?)
        }
    })
}

fn plain(text: &str) -> Node {
    Node::Scalar { text: text.to_owned(), plain: true }
}

fn count(nodes: &mut usize, more: usize) -> Result<(), String> {
    *nodes = nodes.saturating_add(more);
    if *nodes > MAX_NODES { Err(format!("more than {MAX_NODES} values")) } else { Ok(()) }
}

#[derive(Default)]
struct Reader {
    open: Vec<(Open, usize)>,
    /// What anchors stand for, by their numbers.
    anchors: Vec<(usize, Node)>,
    nodes: usize,
    done: Option<Node>,
}

impl Reader {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.done.is_some() => {
                Err("a second document, where one is wanted".to_owned())
            }
            Event::DocumentStart(_) => Ok(()),
            Event::Scalar(text, style, anchor, tag) => {
                // A tag says what a plain text is not: `!!str 1`.
                let plain = style == ScalarStyle::Plain && tag.is_none();
                self.put(Node::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::Alias(anchor) => {
                let found = self.anchors.iter().find(|(id, _)| *id == anchor).map(|(_, node)| node.clone());
                let node = found.ok_or("an alias of what it is in itself")?;
                let (size, depth) = measure(&node);
                count(&mut self.nodes, size)?;
                if self.open.len() + depth > MAX_DEPTH {
                    return Err(format!("nested deeper than {MAX_DEPTH}"));
                }
                self.put(node, 0)
            }
            Event::SequenceStart(anchor, _) => self.begin(Open::Sequence(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => {
                self.begin(Open::Mapping { entries: Vec::new(), key: None }, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some((Open::Sequence(all), anchor)) => self.put(Node::Sequence(all), anchor),
                Some((Open::Mapping { entries, .. }, anchor)) => self.put(Node::Mapping(entries), anchor),
                None => Err("an end without a beginning".to_owned()),
            },
        }
    }

    fn begin(&mut self, open: Open, anchor: usize) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        count(&mut self.nodes, 1)?;
        if anchor != 0 {
            count(&mut self.nodes, measure(&node).0)?;
            self.anchors.retain(|(id, _)| *id != anchor);
            self.anchors.push((anchor, node.clone()));
        }
        match self.open.last_mut() {
            None => self.done = Some(node),
            Some((Open::Sequence(all), _)) => all.push(node),
            Some((Open::Mapping { entries, key }, _)) => match (key.take(), node) {
                (Some(key), value) => entries.push((key, value)),
                (None, Node::Scalar { text, .. }) => *key = Some(text),
                (None, _) => return Err("a key that is no text".to_owned()),
            },
        }
        Ok(())
    }
}

/// How many values it holds, itself among them, and how deep they nest.
fn measure(node: &Node) -> (usize, usize) {
    let within = |nodes: &mut dyn Iterator<Item = &Node>| {
        nodes.map(measure).fold((1, 1), |(size, depth), (more, deep)| (size + more, depth.max(1 + deep)))
    };
    match node {
        Node::Scalar { .. } => (1, 0),
        Node::Sequence(all) => within(&mut all.iter()),
        Node::Mapping(all) => within(&mut all.iter().map(|(_, node)| node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str, plain: bool) -> Node {
        Node::Scalar { text: text.to_owned(), plain }
    }

    #[test]
    fn both_languages_give_the_same_tree() {
        let yaml = read("a: 1\nb:\n- x\n- \"2\"\n# said\nc: {d: true}\n", false).unwrap();
        let json = read("{\n\t\"a\": 1, \"b\": [\"x\", \"2\"],\n\t\"c\": {\"d\": true}}", true).unwrap();
        let Node::Mapping(entries) = &yaml else { panic!("{yaml:?}") };
        assert_eq!(entries[0], ("a".to_owned(), scalar("1", true)));
        assert_eq!(entries[1].1, Node::Sequence(vec![scalar("x", true), scalar("2", false)]));
        let Node::Mapping(others) = &json else { panic!("{json:?}") };
        assert_eq!(entries[0], others[0]);
        assert_eq!(entries[2], others[2]);
        assert_eq!(read("a: 1", true).unwrap(), Node::Mapping(vec![("a".to_owned(), scalar("1", true))]));
    }

    #[test]
    fn aliases_repeat_what_they_name() {
        let node = read("a: &x [1, 2]\nb: *x\n", false).unwrap();
        let Node::Mapping(entries) = node else { panic!() };
        assert_eq!(entries[0].1, entries[1].1);
    }

    #[test]
    fn what_grows_without_end_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..20 {
            let all = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{all}]\n"));
        }
        assert!(read(&bomb, false).unwrap_err().contains("more than"));
        assert!(read(&"[".repeat(100), false).is_err());
        assert!(read(&("[".repeat(100) + &"]".repeat(100)), false).unwrap_err().contains("nested"));
        assert!(read(&("[".repeat(100) + &"]".repeat(100)), true).is_ok());
        assert!(read("a: &x [*x]", false).is_err());
        let ladder =
            format!("a: &a {}{}\nb: {}*a{}", "[".repeat(20), "]".repeat(20), "[".repeat(20), "]".repeat(20));
        assert!(read(&ladder, false).unwrap_err().contains("nested"));
    }

    #[test]
    fn one_document_is_wanted() {
        assert!(read("", false).is_err());
        assert!(read("# nothing\n", false).is_err());
        assert!(read("a: 1\n---\nb: 2\n", false).unwrap_err().contains("second document"));
        assert!(read("---\na: 1\n...\n", false).is_ok());
        assert!(read("? [a]\n: b\n", false).unwrap_err().contains("no text"));
        assert!(read("a: 'b\n", false).is_err());
    }
}
