//! Content hashes of refs, kept beside them so that no file is hashed twice.

use std::{
    cell::OnceCell,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kiln_fstree::{
    Root,
    contenthash::{ChecksumOptions, HashCache, Listing, Tree},
};
use kiln_oci::Digest;
use kiln_worker::{RefId, Unpacked};

use crate::OpError;

/// The value of a ref that holds its content hashes; also what a transfer of local files leaves.
const VALUE: &str = kiln_source::HASHES;
/// Refs whose hashes stay in memory: those of a build that is under way.
const KEPT: usize = 16;

/// The hashes of one ref; whoever computes some holds the lock.
type Shared = Arc<Mutex<HashCache>>;

/// The checksum of the empty tree, which holds nothing but itself.
fn empty_tree(path: &str) -> Result<Digest, OpError> {
    match path.split('/').all(|part| part.is_empty() || part == ".") {
        true => Ok(Digest::sha256("")),
        false => Err(OpError::Invalid(format!("{path}: no such file or directory in an empty tree"))),
    }
}

/// Content hashes of the worker's refs.
#[derive(Debug, Default)]
pub struct Hashes {
    /// The least recently used first.
    recent: Mutex<VecDeque<(RefId, Shared)>>,
}

impl Hashes {
    /// The checksum of `path` in a tree; `None` is the empty tree. Blocks.
    pub(crate) fn checksum(
        &self,
        tree: Option<&Unpacked>,
        path: &str,
        options: &ChecksumOptions,
    ) -> Result<Digest, OpError> {
        let Some(tree) = tree else {
            return empty_tree(path);
        };
        let id = tree.as_ref().id().clone();
        let shared = self.shared(tree)?;
        let mut cache = lock(&shared);
        let lazy = LazyRoot { tree, root: OnceCell::new() };
        let digest = cache
            .checksum(&lazy, path, options)
            .map_err(|source| OpError::Checksum { tree: id.to_string(), source })?;
        if cache.is_dirty() {
            tree.as_ref().set_value(VALUE, cache.encode())?;
        }
        Ok(digest)
    }

    /// The content digest of a whole tree. Blocks.
    ///
    /// # Errors
    /// [`OpError::Checksum`] for files that cannot be read; [`OpError::Worker`].
    pub fn whole(&self, tree: &Unpacked) -> Result<Digest, OpError> {
        self.checksum(Some(tree), "/", &ChecksumOptions::default())
    }

    /// What the checksum of `path` was made of, the first `limit` entries. Blocks, but reads no file.
    pub(crate) fn list(
        &self,
        tree: &Unpacked,
        path: &str,
        options: &ChecksumOptions,
        limit: usize,
    ) -> Result<Listing, OpError> {
        let id = tree.as_ref().id().clone();
        let shared = self.shared(tree)?;
        let lazy = LazyRoot { tree, root: OnceCell::new() };
        let listed = lock(&shared).listing(&lazy, path, options, limit);
        listed.map_err(|source| OpError::Checksum { tree: id.to_string(), source })
    }

    fn shared(&self, tree: &Unpacked) -> Result<Shared, OpError> {
        let id = tree.as_ref().id();
        let mut recent = lock(&self.recent);
        let known = recent.iter().position(|(known, _)| known == id).and_then(|at| recent.remove(at));
        let entry = match known {
            Some(entry) => entry,
            None => {
                let stored = tree.as_ref().value(VALUE)?.unwrap_or_default();
                // Hashes that cannot be read are computed anew.
                (id.clone(), Arc::new(Mutex::new(HashCache::decode(&stored).unwrap_or_default())))
            }
        };
        let shared = entry.1.clone();
        recent.push_back(entry);
        if recent.len() > KEPT {
            recent.pop_front();
        }
        Ok(shared)
    }

    /// Forgets a ref whose files have changed under the same id.
    pub fn forget(&self, id: &RefId) {
        lock(&self.recent).retain(|(known, _)| known != id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while hashing leaves hashes that are missing, never wrong ones.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tree that is mounted when a file of it must be read.
struct LazyRoot<'a> {
    tree: &'a Unpacked,
    root: OnceCell<Root>,
}

impl Tree for LazyRoot<'_> {
    fn root(&self) -> kiln_fstree::Result<&Root> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = self
            .tree
            .open()
            .map_err(|error| kiln_fstree::Error::Refused(format!("cannot mount the tree: {error}")))?;
        Ok(self.root.get_or_init(|| root))
    }
}
