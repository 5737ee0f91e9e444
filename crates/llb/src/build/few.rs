//! Lists that have one entry or two most of the time.

use std::ops::Deref;

/// A list. Its first entries need no memory of their own: a definition has such lists for each of its ops.
#[derive(Debug, Clone, Default)]
pub(super) enum Few<T> {
    #[default]
    None,
    One(T),
    Two([T; 2]),
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub(super) fn push(&mut self, entry: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(entry),
            Self::One(first) => Self::Two([first, entry]),
            Self::Two([first, second]) => Self::Many(vec![first, second, entry]),
            Self::Many(mut entries) => {
                entries.push(entry);
                Self::Many(entries)
            }
        };
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(only) => std::slice::from_ref(only),
            Self::Two(both) => both,
            Self::Many(entries) => entries,
        }
    }
}

impl<T> Extend<T> for Few<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, more: I) {
        more.into_iter().for_each(|entry| self.push(entry));
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        let mut few = Self::None;
        few.extend(entries);
        few
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_are() {
        for count in 0..5 {
            let list: Vec<u8> = (0..count).collect();
            let few: Few<u8> = list.iter().copied().collect();
            assert_eq!((&*few, matches!(few, Few::Many(_))), (list.as_slice(), count > 2));
        }
    }
}
