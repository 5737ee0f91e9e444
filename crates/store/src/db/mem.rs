//! Changes in memory: by table, by key, the new value or `None` for a deletion.

use std::collections::BTreeMap;
use std::ops::Bound;

use redb::{ReadOnlyTable, StorageError};

/// A table's changes by key.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Records as bytes: key and value.
pub(super) type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// A set of changes.
#[derive(Clone, Default)]
pub(super) struct Mem {
    tables: BTreeMap<&'static str, Changes>,
    bytes: usize,
}

impl Mem {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether anything is set, not only deleted.
    pub(super) fn has_puts(&self) -> bool {
        self.tables.values().flat_map(BTreeMap::values).any(Option::is_some)
    }

    /// A rough measure of the memory held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = (&'static str, &Changes)> {
        self.tables.iter().map(|(name, changes)| (*name, changes))
    }

    /// `None` when there is no change for the key; `Some(None)` when it is deleted.
    pub(super) fn get(&self, table: &str, key: &[u8]) -> Option<Option<&[u8]>> {
        Some(self.tables.get(table)?.get(key)?.as_deref())
    }

    pub(super) fn set(&mut self, table: &'static str, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += 64 + key.len() + value.as_ref().map_or(0, Vec::len);
        self.tables.entry(table).or_default().insert(key, value);
    }

    /// Lays `newer` over what is here.
    pub(super) fn absorb(&mut self, newer: Self) {
        self.bytes += newer.bytes;
        for (table, changes) in newer.tables {
            self.tables.entry(table).or_default().extend(changes);
        }
    }

    /// Lays the changes of `table` with `prefix` (after `after`) over `into`.
    pub(super) fn collect(&self, table: &str, prefix: &[u8], after: Option<&[u8]>, into: &mut Changes) {
        let Some(changes) = self.tables.get(table) else { return };
        for (key, value) in changes.range::<[u8], _>((start(prefix, after), Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            into.insert(key.clone(), value.clone());
        }
    }
}

fn start<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// The first `limit` records of `stored` with `pending` laid over it.
pub(super) fn merge(
    stored: Option<&ReadOnlyTable<&'static [u8], &'static [u8]>>,
    pending: Changes,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Rows, StorageError> {
    let mut out = Vec::new();
    let mut pending = pending.into_iter().peekable();
    if let Some(table) = stored {
        for entry in table.range::<&[u8]>((start(prefix, after), Bound::Unbounded))? {
            let (key, value) = entry?;
            let key = key.value();
            if !key.starts_with(prefix) || out.len() >= limit {
                break;
            }
            while let Some((earlier, change)) = pending.next_if(|(k, _)| k.as_slice() < key) {
                out.extend(change.map(|value| (earlier, value)));
            }
            if let Some((same, change)) = pending.next_if(|(k, _)| k.as_slice() == key) {
                out.extend(change.map(|value| (same, value)));
                continue;
            }
            out.push((key.to_vec(), value.value().to_vec()));
        }
    }
    for (key, value) in pending {
        if out.len() >= limit {
            break;
        }
        out.extend(value.map(|value| (key, value)));
    }
    out.truncate(limit);
    Ok(out)
}
