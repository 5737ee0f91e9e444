//! The variables of steps.

use std::collections::HashMap;
use std::sync::Arc;

/// Variables in the order in which they were last set. Setting one and looking one up take the same time however many
/// there are.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Those that were set again later leave a gap.
    entries: Vec<Option<(Arc<str>, Arc<str>)>>,
    places: HashMap<Arc<str>, usize>,
}

impl Env {
    /// Sets a variable; one that is set already moves to the end.
    pub fn set(&mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        let name = name.into();
        if let Some(old) = self.places.insert(Arc::clone(&name), self.entries.len()) {
            self.entries[old] = None;
        }
        self.entries.push(Some((name, value.into())));
        self.close_gaps();
    }

    /// Forgets a variable.
    pub fn unset(&mut self, name: &str) {
        if let Some(old) = self.places.remove(name) {
            self.entries[old] = None;
            self.close_gaps();
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        let place = *self.places.get(name)?;
        self.entries[place].as_ref().map(|(_, value)| &**value)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().flatten().map(|(name, value)| (&**name, &**value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Once half of the entries are gaps, they are left out.
    fn close_gaps(&mut self) {
        if self.entries.len() < 2 * self.places.len() + 16 {
            return;
        }
        self.entries.retain(Option::is_some);
        for (place, (name, _)) in self.entries.iter().flatten().enumerate() {
            if let Some(known) = self.places.get_mut(name) {
                *known = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_set_is_the_last() {
        let mut env = Env::default();
        for (name, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("a", "4")] {
            env.set(name, value);
        }
        env.unset("c");
        env.unset("nothing");
        assert_eq!(env.iter().collect::<Vec<_>>(), [("b", "2"), ("a", "4")]);
        assert_eq!((env.get("a"), env.get("c"), env.len()), (Some("4"), None, 2));
    }

    #[test]
    fn gaps_are_closed() {
        let mut env = Env::default();
        for round in 0..1000 {
            for name in ["a", "b", "c"] {
                env.set(name, round.to_string());
            }
        }
        assert!(env.entries.len() < 40);
        assert_eq!(env.iter().collect::<Vec<_>>(), [("a", "999"), ("b", "999"), ("c", "999")]);
        assert_eq!(env.get("b"), Some("999"));
        assert!(!env.is_empty() && Env::default().is_empty());
    }
}
