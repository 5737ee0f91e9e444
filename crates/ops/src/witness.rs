//! Telling others what a build's steps look at and make.

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use kiln_fstree::contenthash::Listed;
use kiln_oci::Digest;
use kiln_worker::Unpacked;

use crate::{Hashes, OpError, Output, selector::Selector};

/// Is told what a build's steps look at and make. Must not block.
pub trait Witness: Debug + Send + Sync {
    /// What a step uses of an input has this digest.
    fn hashed(&self, _digest: &Digest, _content: Content) {}

    /// A step has run, and these are its outputs.
    fn made(&self, _vertex: &Digest, _outputs: &[Output]) {}
}

/// What a step uses of an input. Holds the tree.
#[derive(Clone)]
pub struct Content {
    hashes: Arc<Hashes>,
    /// `None` is the empty tree.
    tree: Option<Unpacked>,
    selectors: Arc<[Selector]>,
}

impl Content {
    pub(crate) fn new(hashes: Arc<Hashes>, tree: Option<Unpacked>, selectors: Arc<[Selector]>) -> Self {
        Self { hashes, tree, selectors }
    }

    /// The files, links and folders that its digest is made of, up to `limit`, and whether these are all. From hashes that
    /// are known already, so that no file is read. Blocks.
    ///
    /// # Errors
    /// [`OpError::Worker`], [`OpError::Checksum`] when the tree is not what it was.
    pub fn list(&self, limit: usize) -> Result<(Vec<Listed>, bool), OpError> {
        let Some(tree) = &self.tree else { return Ok((Vec::new(), true)) };
        let (mut all, mut complete) = (Vec::new(), true);
        for selector in self.selectors.iter() {
            let listing = self.hashes.list(tree, &selector.place(), &selector.options, limit - all.len())?;
            complete &= !listing.truncated;
            all.extend(listing.entries);
        }
        Ok((all, complete))
    }
}

impl Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("selectors", &self.selectors).finish_non_exhaustive()
    }
}
