//! YAML and JSON as one tree, with limits on its size.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deepest nesting.
const MAX_DEPTH: usize = 32;
/// Most values of a file, those that aliases repeat counted each time.
const MAX_NODES: usize = 200_000;
/// Most bytes of text in them, counted in the same way.
const MAX_TEXT: usize = 16 << 20;

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
        return from_json(value, &mut Size::default());
    }
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        reader.event(event).map_err(|problem| format!("line {}: {problem}", span.start.line()))?;
    }
    reader.done.ok_or_else(|| "there is nothing in it".to_owned())
}

fn from_json(value: serde_json::Value, size: &mut Size) -> Result<Node, String> {
    use serde_json::Value;
    // No text is repeated: there is no more of it than in the file.
    size.add(Size { nodes: 1, text: 0 })?;
    // serde_json keeps the depth below 128 by itself.
    Ok(match value {
        Value::Null => plain("null"),
        Value::Bool(value) => plain(if value { "true" } else { "false" }),
        Value::Number(number) => plain(&number.to_string()),
        Value::String(text) => Node::Scalar { text, plain: false },
        Value::Array(all) => {
            Node::Sequence(all.into_iter().map(|value| from_json(value, size)).collect::<Result<_, _>>()?)
        }
        Value::Object(all) => {
            let all = all.into_iter().map(|(key, value)| Ok((key, from_json(value, size)?)));
            Node::Mapping(all.collect::<Result<_, String>>()?)
        }
    })
}

fn plain(text: &str) -> Node {
    Node::Scalar { text: text.to_owned(), plain: true }
}

/// How much memory values take.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    /// How many they are.
    nodes: usize,
    /// The bytes of their texts and keys.
    text: usize,
}

impl Size {
    /// Of a value with all that it holds.
    fn of(node: &Node) -> Self {
        let text = |text: &str| Self { nodes: 0, text: text.len() };
        let one = Self { nodes: 1, text: 0 };
        match node {
            Node::Scalar { text: said, .. } => one + text(said),
            Node::Sequence(all) => all.iter().map(Self::of).fold(one, |sum, more| sum + more),
            Node::Mapping(all) => {
                all.iter().map(|(key, node)| text(key) + Self::of(node)).fold(one, |sum, more| sum + more)
            }
        }
    }

    fn add(&mut self, more: Self) -> Result<(), String> {
        *self = *self + more;
        if self.nodes > MAX_NODES {
            return Err(format!("more than {MAX_NODES} values"));
        }
        if self.text > MAX_TEXT {
            return Err(format!("more than {MAX_TEXT} bytes of text"));
        }
        Ok(())
    }
}

impl std::ops::Add for Size {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self { nodes: self.nodes.saturating_add(more.nodes), text: self.text.saturating_add(more.text) }
    }
}

#[derive(Default)]
struct Reader {
    open: Vec<(Open, usize)>,
    /// What anchors stand for, by their numbers.
    anchors: HashMap<usize, Node>,
    size: Size,
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
                let node = self.anchors.get(&anchor).ok_or("an alias of what it is in itself")?;
                self.size.add(Size::of(node))?;
                if self.open.len() + depth(node) > MAX_DEPTH {
                    return Err(format!("nested deeper than {MAX_DEPTH}"));
                }
                let node = node.clone();
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
        self.size.add(Size { nodes: 1, text: 0 })?;
        if anchor != 0 {
            self.size.add(Size::of(&node))?;
            self.anchors.insert(anchor, node.clone());
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

/// How deep its values nest.
fn depth(node: &Node) -> usize {
    match node {
        Node::Scalar { .. } => 0,
        Node::Sequence(all) => 1 + all.iter().map(depth).max().unwrap_or_default(),
        Node::Mapping(all) => 1 + all.iter().map(|(_, node)| depth(node)).max().unwrap_or_default(),
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
    fn a_long_text_is_not_repeated_without_end() {
        let long = "x".repeat(1 << 20);
        let repeated = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 1000].join(", "));
        assert!(read(&repeated, false).unwrap_err().contains("bytes of text"));
        let keys = format!("a: &a {{{long}: 1}}\nb: [{}]\n", vec!["*a"; 1000].join(", "));
        assert!(read(&keys.replace(&long, &long[..1000]), false).is_ok());
        let keys = format!("a: &a {{? {long}\n : 1}}\nb: [{}]\n", vec!["*a"; 1000].join(", "));
        assert!(read(&keys, false).unwrap_err().contains("bytes of text"));
    }

    #[test]
    fn many_anchors_are_looked_up_quickly() {
        let anchors: String = (0..60_000).map(|n| format!("- &a{n} 1\n- *a{n}\n")).collect();
        let begun = std::time::Instant::now();
        assert!(read(&anchors, false).unwrap_err().contains("values"));
        // Looked through one by one it takes far longer.
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
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
