//! What the ARGs of a stage declared.

use std::collections::HashMap;

use bytestring::ByteString;
use foldhash::quality::RandomState;

/// Names and values, each name at the place where it was declared first.
#[derive(Debug, Clone, Default)]
pub(super) struct BuildArgs {
    order: Vec<ByteString>,
    values: HashMap<ByteString, Value, RandomState>,
}

#[derive(Debug, Clone, Default)]
struct Value {
    /// Of the last declaration with a value.
    given: Option<ByteString>,
    /// The last declaration had none.
    bare: bool,
}

impl Value {
    /// Of the last declaration.
    fn last(&self) -> Option<&str> {
        self.given.as_deref().filter(|_| !self.bare)
    }
}

impl BuildArgs {
    /// Notes a declaration.
    pub(super) fn declare(&mut self, name: &ByteString, value: Option<ByteString>) {
        let known = self.values.entry(name.clone()).or_insert_with(|| {
            self.order.push(name.clone());
            Value::default()
        });
        known.bare = value.is_none();
        known.given = value.or(known.given.take());
    }

    /// Whether there was an ARG of this name, with or without a value.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of the last declaration that had one.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.given.as_deref()
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Names and the values of their last declarations.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> + Clone {
        self.order.iter().map(|name| (&**name, self.values.get(name).and_then(Value::last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_twice() {
        let mut args = BuildArgs::default();
        args.declare(&"a".into(), Some("1".into()));
        args.declare(&"b".into(), None);
        args.declare(&"a".into(), None);
        assert_eq!(args.iter().collect::<Vec<_>>(), [("a", None), ("b", None)]);
        assert_eq!((args.given("a"), args.given("b"), args.given("c")), (Some("1"), None, None));
        assert!(args.declares("b") && !args.declares("c"));
    }
}
