//! One change: reads that see its own writes, and writes that are visible to others when it is over.

use std::collections::BTreeMap;

use super::{Decode, Encode, Shared, Table, Value, mem::Mem};
use crate::Error;

/// A change under way. Given to the body of [`Db::change`](super::Db::change).
pub struct Tx<'a> {
    shared: &'a Shared,
    changes: Mem,
}

impl<'a> Tx<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, changes: Mem::default() }
    }

    pub(super) fn into_changes(self) -> Mem {
        self.changes
    }

    /// Sets the value at `key`.
    pub fn put<K: Encode, V: Value>(&mut self, table: &Table<K, V>, key: &K, value: &V) {
        self.changes.set(table.name(), key.to_key(), Some(value.to_value()));
    }

    /// Deletes the value at `key`, if there is one.
    pub fn delete<K: Encode, V>(&mut self, table: &Table<K, V>, key: &K) {
        self.changes.set(table.name(), key.to_key(), None);
    }

    /// The value at `key`, as this change left it.
    ///
    /// # Errors
    /// As for [`Db::get`](super::Db::get).
    pub fn get<K: Encode, V: Value>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>, Error> {
        let key = key.to_key();
        let found = match self.changes.get(table.name(), &key) {
            Some(own) => own.map(<[u8]>::to_vec),
            None => self.shared.get_raw(table.name(), &key)?,
        };
        found.map(|bytes| table.decode_value(&key, &bytes)).transpose()
    }

    /// All records whose key begins with `prefix`, as this change left them, in key order.
    ///
    /// # Errors
    /// As for [`Db::get`](super::Db::get).
    pub fn prefix<K: Encode + Decode, V: Value, P: Encode>(
        &self,
        table: &Table<K, V>,
        prefix: &P,
    ) -> Result<Vec<(K, V)>, Error> {
        let prefix = prefix.to_key();
        let mut own = BTreeMap::new();
        self.changes.collect(table.name(), &prefix, None, &mut own);
        let mut all = self.shared.scan_raw(table.name(), &prefix, None, usize::MAX)?;
        if !own.is_empty() {
            let mut merged: BTreeMap<_, _> = all.into_iter().map(|(k, v)| (k, Some(v))).collect();
            merged.append(&mut own);
            all = merged.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
        }
        all.into_iter().map(|(k, v)| table.decode(&k, &v)).collect()
    }
}
