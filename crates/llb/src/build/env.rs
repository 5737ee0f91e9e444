//! The variables of steps.

use std::collections::HashMap;

use bytestring::ByteString;
use foldhash::quality::RandomState;

/// From so many entries on, places are looked up in a map.
const MANY: usize = 24;

/// Variables in the order in which they were last set. Setting one and looking one up take the same time however many
/// there are.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Those that were set again later leave a gap.
    entries: Vec<Option<(ByteString, ByteString)>>,
    /// Where each one is, once there are many.
    places: Option<HashMap<ByteString, usize, RandomState>>,
    count: usize,
    /// Of all names and values.
    bytes: usize,
    /// How many entries there were when it was settled.
    settled: usize,
}

impl Env {
    /// Sets a variable; one that is set already moves to the end.
    pub fn set(&mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) {
        let (name, value) = (name.into(), value.into());
        let place = self.entries.len();
        let old = match &mut self.places {
            Some(places) => places.insert(name.clone(), place),
            None => self.place(&name),
        };
        if let Some(old) = old {
            self.leave_gap(old);
        }
        self.bytes += name.len() + value.len();
        self.count += 1;
        self.entries.push(Some((name, value)));
        self.close_gaps();
    }

    fn place(&self, name: &str) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(name).copied(),
            None => self.entries.iter().position(|e| e.as_ref().is_some_and(|(known, _)| **known == *name)),
        }
    }

    fn leave_gap(&mut self, place: usize) {
        if let Some((name, value)) = self.entries[place].take() {
            self.bytes -= name.len() + value.len();
            self.count -= 1;
        }
    }

    /// Forgets a variable.
    pub fn unset(&mut self, name: &str) {
        let old = match &mut self.places {
            Some(places) => places.remove(name),
            None => self.place(name),
        };
        if let Some(old) = old {
            self.leave_gap(old);
            self.close_gaps();
        }
    }

    /// Remembers which variables were set until now, for [`Env::order`].
    pub fn settle(&mut self) {
        self.settled = self.entries.len();
    }

    /// Puts variables that were not set since the last [`Env::settle`] in order: those named go behind the others.
    pub fn order<'n>(&mut self, last: impl DoubleEndedIterator<Item = &'n str>) {
        // Of a name that comes twice, the last one counts.
        let mut moved = Vec::new();
        for name in last.rev() {
            if let Some(place) = self.place(name).filter(|&place| place < self.settled) {
                moved.extend(self.entries[place].take());
            }
        }
        let tail = self.entries.split_off(self.settled);
        self.entries.extend(moved.into_iter().rev().map(Some));
        self.settled = self.entries.len();
        self.entries.extend(tail);
        self.pack();
        self.close_gaps();
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries[self.place(name)?].as_ref().map(|(_, value)| &**value)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().flatten().map(|(name, value)| (&**name, &**value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// How many bytes all names and values take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn pack(&mut self) {
        self.settled = self.entries.iter().take(self.settled).flatten().count();
        self.entries.retain(Option::is_some);
        self.places = None;
    }

    /// Once half of the entries are gaps, they are left out.
    fn close_gaps(&mut self) {
        if self.entries.len() >= 2 * self.count + 16 {
            self.pack();
        }
        if self.places.is_none() && self.entries.len() >= MANY {
            let place = |(place, entry): (usize, &Option<(ByteString, _)>)| {
                entry.as_ref().map(|(name, _)| (name.clone(), place))
            };
            self.places = Some(self.entries.iter().enumerate().filter_map(place).collect());
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
        assert_eq!((env.get("a"), env.get("c"), env.len(), env.bytes()), (Some("4"), None, 2, 4));
    }

    #[test]
    fn many_are_as_few() {
        let mut env = Env::default();
        for number in 0..3 * MANY {
            env.set(format!("n{number}"), number.to_string());
            env.set("last", "x");
            env.unset(&format!("n{}", number / 2));
            assert_eq!(env.iter().last(), Some(("last", "x")));
            assert_eq!((env.len(), env.get("n0")), (env.iter().count(), None));
            assert_eq!(env.bytes(), env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>());
        }
        let kept = format!("n{}", 3 * MANY - 1);
        assert_eq!(env.get(&kept), Some(&kept[1..]));
    }

    #[test]
    fn order_of_what_was_settled() {
        for more in [0, 3 * MANY] {
            let mut env = Env::default();
            for number in 0..more {
                env.set(format!("n{number}"), "x");
            }
            ["a", "b", "c", "d", "e"].into_iter().for_each(|name| env.set(name, "1"));
            env.unset("n1");
            env.settle();
            env.set("b", "2");
            env.set("new", "3");
            env.order(["d", "a", "nothing", "b", "c", "a", "new"].into_iter());
            let all: Vec<&str> = env.iter().map(|(name, _)| name).collect();
            assert_eq!(all[all.len() - 6..], ["e", "d", "c", "a", "b", "new"]);
            assert_eq!((env.get("b"), env.get("a"), env.len()), (Some("2"), Some("1"), all.len()));
            env.order(["e"].into_iter());
            assert_eq!(env.iter().map(|(name, _)| name).last(), Some("new"));
        }
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
