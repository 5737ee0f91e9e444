//! How many files an answer names.

use std::{cell::Cell, collections::HashSet};

use crate::{files::MAX_FILES, roots::MAX_DIFFERENCES};

/// No more files than these are told one by one in an answer.
const MAX_ALL: usize = 20_000;

/// The room that is left for files. Steps that nobody asked about need only what is told where others follow them.
#[derive(Debug, Default)]
pub(crate) struct Room {
    left: Cell<usize>,
    chosen: HashSet<usize>,
}

impl Room {
    /// For an answer about the steps `chosen` of a record.
    pub(crate) fn new(chosen: impl Iterator<Item = usize>) -> Self {
        Self { left: Cell::new(MAX_ALL), chosen: chosen.collect() }
    }

    /// How many files of one more input of a step may be told that has told `told` already.
    pub(crate) fn most(&self, step: usize, told: usize) -> usize {
        let own = if self.chosen.contains(&step) { self.left.get().min(MAX_FILES) } else { 0 };
        own.max(MAX_DIFFERENCES.saturating_sub(told))
    }

    /// So many of them are told.
    pub(crate) fn take(&self, step: usize, told: usize) {
        if self.chosen.contains(&step) {
            self.left.set(self.left.get().saturating_sub(told));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_so_many_files_and_no_more() {
        let room = Room::new([0, 1].into_iter());
        assert_eq!((room.most(0, 5000), room.most(7, 0), room.most(7, 15)), (MAX_FILES, MAX_DIFFERENCES, 5));
        room.take(7, MAX_ALL);
        room.take(0, MAX_ALL - 100);
        assert_eq!(room.most(1, 0), 100);
        room.take(1, 100);
        assert_eq!((room.most(1, 0), room.most(1, 100)), (MAX_DIFFERENCES, 0));
    }
}
