//! BuildKit's content checksums over a tree: what makes a copied file a cache key.

mod header;

use kiln_oci::Digest;

use crate::diffcopy::Change;
use crate::{Error, Result, Root};

pub use header::FileHash;

/// What part of a tree to hash, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChecksumOptions {
    /// A symbolic link at the end of the path stands for what it leads to.
    pub follow_links: bool,
    /// The path may hold wildcards.
    pub wildcard: bool,
    /// If any: only what matches one of these, relative to the path.
    pub include: Vec<String>,
    /// Not what matches one of these, relative to the path.
    pub exclude: Vec<String>,
    /// Paths of which something must be included, else the result is [`Error::NotFound`].
    pub required: Vec<String>,
}

/// A tree that may cost something to get at, and is asked for only when a file must be read.
pub trait Tree {
    /// The tree.
    ///
    /// # Errors
    /// If it cannot be mounted.
    fn root(&self) -> Result<&Root>;
}

impl Tree for Root {
    fn root(&self) -> Result<&Root> {
        Ok(self)
    }
}

/// The hashes that are known of one snapshot. Filled as they are asked for; to be kept beside the snapshot.
#[derive(Debug, Clone, Default)]
pub struct HashCache {
    dirty: bool,
}

impl HashCache {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If the bytes are none of ours; the cache can then be started anew.
    pub fn decode(data: &[u8]) -> Result<Self> {
        if data.is_empty() { Ok(Self::new()) } else { Err(Error::Unsupported("contenthash")) }
    }

    /// The cache as bytes, and from here on [not dirty](Self::is_dirty).
    pub fn encode(&mut self) -> Vec<u8> {
        self.dirty = false;
        Vec::new()
    }

    /// Whether anything has been learnt since the cache was made, read or encoded.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Carries the cache over a transfer: what did not change stays known, what came is known already.
    /// Without digests in the changes, what changed is forgotten.
    pub fn apply(&mut self, changes: &[Change]) {
        self.dirty |= !changes.is_empty();
    }

    /// The checksum of `path` in the tree.
    ///
    /// # Errors
    /// If nothing is there, or the tree cannot be read.
    pub fn checksum(&mut self, tree: &dyn Tree, path: &str, options: &ChecksumOptions) -> Result<Digest> {
        let _nothing = (tree.root()?, path, options);
        Err(Error::Unsupported("contenthash"))
    }
}
