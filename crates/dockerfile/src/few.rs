//! Lists that most often have one member.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A list that needs no memory beside itself while it has one member. It reads like a slice.
#[derive(Clone)]
pub struct Few<T>(Members<T>);

#[derive(Clone)]
enum Members<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    /// A list of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Members::Many(Vec::new()))
    }

    /// The members.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        match &self.0 {
            Members::One(only) => std::slice::from_ref(only),
            Members::Many(list) => list,
        }
    }

    /// Takes the last member.
    pub fn pop(&mut self) -> Option<T> {
        match std::mem::take(self).0 {
            Members::One(only) => Some(only),
            Members::Many(mut list) => {
                let last = list.pop();
                self.0 = Members::Many(list);
                last
            }
        }
    }

    /// The members as a vector.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        match self.0 {
            Members::One(only) => vec![only],
            Members::Many(list) => list,
        }
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Members::One(only) => std::slice::from_mut(only),
            Members::Many(list) => list,
        }
    }
}

/// A list of one.
impl<T> From<T> for Few<T> {
    fn from(only: T) -> Self {
        Self(Members::One(only))
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut members = members.into_iter();
        let (Some(first), second) = (members.next(), members.next()) else { return Self::new() };
        let Some(second) = second else { return first.into() };
        let mut list = Vec::with_capacity(members.size_hint().0.saturating_add(2));
        list.extend([first, second]);
        list.extend(members);
        Self(Members::Many(list))
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self.0 {
            Members::One(only) => (Some(only), Vec::new()),
            Members::Many(list) => (None, list),
        };
        one.into_iter().chain(many)
    }
}

impl<T: fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Eq> Eq for Few<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn few(members: &[u8]) -> Few<u8> {
        members.iter().copied().collect()
    }

    #[test]
    fn it_reads_like_a_slice() {
        for members in [&[][..], &[1], &[1, 2], &[1, 2, 3]] {
            let list = few(members);
            assert_eq!((list.as_slice(), list.len()), (members, members.len()));
            assert_eq!(list.clone().into_vec(), members);
            assert_eq!(list.clone().into_iter().collect::<Vec<_>>(), members);
            assert_eq!(format!("{list:?}"), format!("{members:?}"));
        }
        assert_eq!(few(&[1]), Few(Members::Many(vec![1])));
        assert_ne!(few(&[1]), few(&[1, 1]));
    }

    #[test]
    fn members_are_taken_from_the_end() {
        let mut list = few(&[1, 2]);
        list[0] = 3;
        assert_eq!((list.pop(), list.pop(), list.pop()), (Some(2), Some(3), None));
        let mut one = Few::from(7);
        assert_eq!((one.pop(), one.pop()), (Some(7), None));
    }
}
