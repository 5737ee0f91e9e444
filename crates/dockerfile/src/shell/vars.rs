//! Where expansion finds its variables.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// A scope of variables.
pub trait Variables {
    /// The value of a variable, `None` when it isn't set.
    fn get(&self, name: &str) -> Option<Cow<'_, str>>;

    /// All names, for suggestions.
    fn names(&self) -> Vec<String>;
}

/// A scope without variables.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Variables in a map. Names differ by case, unless made by [`VariableList::ignoring_case`] (Windows hosts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VariableList {
    values: BTreeMap<String, (String, String)>,
    ignore_case: bool,
}

impl VariableList {
    /// No variables; names differ by case.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No variables; `Path` and `PATH` are one.
    #[must_use]
    pub fn ignoring_case() -> Self {
        Self { ignore_case: true, ..Self::default() }
    }

    /// Sets a variable, in place of one with the same name.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(self.key(name).into_owned(), (name.to_owned(), value.into()));
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) {
        let key = self.key(name).into_owned();
        self.values.remove(&key);
    }

    fn key<'n>(&self, name: &'n str) -> Cow<'n, str> {
        if self.ignore_case { Cow::Owned(name.to_uppercase()) } else { Cow::Borrowed(name) }
    }
}

impl Variables for VariableList {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.values.get(self.key(name).as_ref()).map(|(_, value)| Cow::Borrowed(value.as_str()))
    }

    fn names(&self) -> Vec<String> {
        self.values.values().map(|(name, _)| name.clone()).collect()
    }
}

impl<N: AsRef<str>, V: Into<String>> FromIterator<(N, V)> for VariableList {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut list = Self::new();
        for (name, value) in pairs {
            list.set(name.as_ref(), value);
        }
        list
    }
}
