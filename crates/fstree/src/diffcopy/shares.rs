//! Which writer has which file.

use bytes::Bytes;
use kiln_proto::fsutil::Stat;

use crate::names::split;

/// Entries, and bytes in them, after which the next writer goes on in a folder.
const ENTRIES: usize = 512;
const BYTES: u64 = 8 << 20;

/// Shares files out by folder: writers that make files in one folder wait for each other.
#[derive(Debug)]
pub(super) struct Shares {
    writers: u8,
    /// By id.
    shares: Vec<u8>,
    folder: Bytes,
    /// Of the current share.
    entries: usize,
    bytes: u64,
}

impl Shares {
    /// For a few writers, at most 255.
    pub(super) fn new(writers: usize) -> Self {
        let writers = u8::try_from(writers).unwrap_or(u8::MAX).max(1);
        Self { writers, shares: Vec::new(), folder: Bytes::new(), entries: 0, bytes: 0 }
    }

    /// Takes the next entry.
    pub(super) fn add(&mut self, stat: &Stat) {
        let last = self.shares.last().copied().unwrap_or_default();
        let (folder, _) = split(&stat.path);
        let full = self.entries >= ENTRIES || self.bytes >= BYTES;
        let share = if full || self.folder != folder {
            self.folder = stat.path.slice_ref(folder);
            (self.entries, self.bytes) = (0, 0);
            (last + 1) % self.writers
        } else {
            last
        };
        self.entries += 1;
        self.bytes += u64::try_from(stat.size).unwrap_or(0);
        self.shares.push(share);
    }

    /// The writer of a file. Ids that nobody told of may be anyone's: they are refused by whoever gets them.
    pub(super) fn of(&self, id: u32) -> usize {
        let share = usize::try_from(id).ok().and_then(|id| self.shares.get(id));
        share.copied().unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(writers: usize, entries: impl IntoIterator<Item = (String, i64)>) -> Vec<usize> {
        let mut shares = Shares::new(writers);
        let mut count = 0;
        for (path, size) in entries {
            shares.add(&Stat { path: path.into(), size, ..Stat::default() });
            count += 1;
        }
        (0..count).map(|id| shares.of(id)).collect()
    }

    #[test]
    fn a_folder_is_one_writers_unless_it_is_large() {
        let small = ["a", "a/1", "a/2", "b", "b/1", "b/2", "c"].map(|path| (path.to_owned(), 10));
        assert_eq!(shares(2, small), [0, 1, 1, 0, 1, 1, 0]);
        let many = (0..ENTRIES * 2 + 1).map(|i| (format!("{i:05}"), 0));
        let found = shares(2, many);
        assert_eq!((found[0], found[ENTRIES - 1], found[ENTRIES], found[ENTRIES * 2]), (0, 0, 1, 0));
        let large = (0..4).map(|i| (i.to_string(), i64::MAX));
        assert_eq!(shares(3, large), [0, 1, 2, 0]);
    }

    #[test]
    fn anything_may_be_asked() {
        let none = Shares::new(0);
        assert_eq!((none.of(0), none.of(u32::MAX)), (0, 0));
        assert_eq!(shares(1000, [("a".to_owned(), -1), ("b/c".to_owned(), i64::MAX)]), [0, 1]);
    }
}
