//! Maps with few entries, of which there are many.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

/// An entry: its key is a constant most of the time.
type Entry<V> = (Cow<'static, str>, V);

/// A map by name, in the order of its keys. It is one piece of memory, none when it is empty, and clones share it: a definition
/// has two for each of its ops.
///
/// Changing one copies it; it is for tens of entries, not for thousands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SmallMap<V>(Option<Arc<[Entry<V>]>>);

impl<V> Default for SmallMap<V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<V> SmallMap<V> {
    fn entries(&self) -> &[Entry<V>] {
        self.0.as_deref().unwrap_or_default()
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.entries().binary_search_by(|(known, _)| known.as_ref().cmp(key))
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.entries().get(self.place(key).ok()?).map(|(_, value)| value)
    }

    /// Keys and values in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.entries().iter().map(|(key, value)| (key.as_ref(), value))
    }

    /// The same as a map of the standard library.
    pub fn to_map(&self) -> BTreeMap<String, V>
    where
        V: Clone,
    {
        self.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }
}

impl<V: AsRef<str>> SmallMap<V> {
    /// The same as a map of the standard library, with values of its own.
    pub fn to_texts(&self) -> BTreeMap<String, String> {
        self.iter().map(|(key, value)| (key.to_owned(), value.as_ref().to_owned())).collect()
    }
}

impl<V: Clone + Default> SmallMap<V> {
    /// Sets the value of a key.
    pub fn insert(&mut self, key: impl Into<Cow<'static, str>>, value: V) {
        let key = key.into();
        if self.is_empty() {
            self.0 = Some(Arc::new([(key, value)]));
            return;
        }
        let place = self.place(&key);
        if let (Ok(place), Some(own)) = (place, self.0.as_mut().and_then(Arc::get_mut)) {
            own[place].1 = value;
            return;
        }
        let mut entries = self.take();
        match place {
            Ok(place) => entries[place] = (key, value),
            Err(place) => entries.insert(place, (key, value)),
        }
        self.0 = Some(entries.into());
    }

    /// Takes the entries of another map over, in place of its own with the same keys.
    pub fn merge(&mut self, other: &Self)
    where
        V: PartialEq,
    {
        let (Some(own), Some(more)) = (&self.0, &other.0) else {
            if self.is_empty() {
                self.clone_from(other);
            }
            return;
        };
        if Arc::ptr_eq(own, more) {
            return;
        }
        if own.len() == more.len() && own.iter().zip(more.iter()).all(|(a, b)| a.0 == b.0) {
            // Nothing of its own stays.
            self.clone_from(other);
            return;
        }
        for (key, value) in other.entries() {
            if self.get(key) != Some(value) {
                self.insert(key.clone(), value.clone());
            }
        }
    }

    /// The entries, moved out if nobody else has them; room for one more.
    fn take(&mut self) -> Vec<Entry<V>> {
        let Some(mut shared) = self.0.take() else { return Vec::with_capacity(1) };
        let mut entries = Vec::with_capacity(shared.len() + 1);
        match Arc::get_mut(&mut shared) {
            Some(own) => entries.extend(own.iter_mut().map(take)),
            None => entries.extend(shared.iter().cloned()),
        }
        entries
    }
}

impl<K: Into<Cow<'static, str>>, V: Clone + Default> Extend<(K, V)> for SmallMap<V> {
    /// Of several entries with one key the last counts.
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, more: I) {
        let mut more = more.into_iter().map(|(key, value)| (key.into(), value)).peekable();
        if more.peek().is_none() {
            return;
        }
        let mut entries = self.take();
        entries.extend(more);
        // Stable, so that the last of a key stays the last.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        self.0 = Some(entries.into());
    }
}

impl<K: Into<Cow<'static, str>>, V: Clone + Default> FromIterator<(K, V)> for SmallMap<V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Into<Cow<'static, str>>, V: Clone + Default, const N: usize> From<[(K, V); N]> for SmallMap<V> {
    fn from(entries: [(K, V); N]) -> Self {
        let mut entries = entries.map(|(key, value)| (key.into(), value));
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        if N == 0 || entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return entries.into_iter().collect();
        }
        Self(Some(Arc::new(entries)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(map: &SmallMap<u8>) -> Vec<(&str, u8)> {
        map.iter().map(|(key, value)| (key, *value)).collect()
    }

    #[test]
    fn keys_are_in_order_and_the_last_value_counts() {
        let mut map: SmallMap<u8> = [("b", 1), ("a", 2), ("b", 3)].into();
        assert_eq!(list(&map), [("a", 2), ("b", 3)]);
        let before = map.clone();
        map.insert("c", 4);
        map.insert("a", 5);
        map.insert(String::new(), 6);
        map.extend([("b", 7), ("aa", 8)]);
        assert_eq!(list(&map), [("", 6), ("a", 5), ("aa", 8), ("b", 7), ("c", 4)]);
        assert_eq!(list(&before), [("a", 2), ("b", 3)]);
        assert_eq!((map.get("aa"), map.get("d"), map.len()), (Some(&8), None, 5));
        assert_eq!(before.to_map(), [("a".to_owned(), 2), ("b".to_owned(), 3)].into());
    }

    #[test]
    fn merging_takes_what_is_new() {
        let mut map = SmallMap::<u8>::default();
        map.merge(&[("a", 1), ("b", 2)].into());
        map.merge(&SmallMap::default());
        let before = map.clone();
        map.merge(&before);
        map.merge(&[("b", 3), ("c", 4)].into());
        assert_eq!(list(&map), [("a", 1), ("b", 3), ("c", 4)]);
        map.merge(&[("c", 5), ("a", 6), ("b", 7)].into());
        assert_eq!(list(&map), [("a", 6), ("b", 7), ("c", 5)]);
        assert_eq!(list(&before), [("a", 1), ("b", 2)]);
    }

    #[test]
    fn nothing_is_nothing() {
        let mut map = SmallMap::<u8>::default();
        map.extend(Vec::<(&str, u8)>::new());
        assert!(map.is_empty() && map == SmallMap::from([("a", 1); 0]) && map.get("").is_none());
    }
}
