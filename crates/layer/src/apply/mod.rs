//! Unpacks a layer, an OCI changeset (image-spec, layer.md), into a folder.
//!
//! A name is cleaned (`.` and empty components dropped, `..` taken up, never above the root) and its folder opened by the
//! kernel inside the root (`openat2` with `RESOLVE_IN_ROOT`), so no link can lead out. What is there is replaced, except
//! that a folder onto a folder only takes the new metadata. Names that tell of deletions:
//!
//! ```text
//! dir/.wh.name       name of the layers below is gone
//! dir/.wh..wh..opq   everything in dir of the layers below is gone
//! dir/.wh..wh.*      AUFS's own files, skipped
//! ```

#[cfg(not(unix))]
mod other;
#[cfg(all(test, unix))]
pub(crate) mod tests;
#[cfg(unix)]
pub(crate) mod tree;
#[cfg(unix)]
mod unix;

use std::{io::Read, path::PathBuf};

use kiln_fstree::Root;
use kiln_oci::Digest;

use crate::{LayerFormat, error::Result};

/// How deletions are kept in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// The tree is an upper folder of overlayfs: a deletion becomes a character device 0:0, an opaque folder the extended
    /// attribute `trusted.overlay.opaque`.
    Overlay,
    /// The tree holds the files of the layers below: deletions are carried out.
    Delete,
}

/// How to unpack a layer.
#[derive(Clone, Copy, Debug)]
pub struct ApplyOptions {
    /// What becomes of deletions.
    pub whiteouts: Whiteouts,
    /// The layer's format.
    pub format: LayerFormat,
    /// The most bytes that the files of the layer may have together; more is an error.
    pub max_size: Option<u64>,
}

impl ApplyOptions {
    /// A layer of Linux for an upper folder of overlayfs, of any size.
    pub fn overlay() -> Self {
        ApplyOptions { whiteouts: Whiteouts::Overlay, format: LayerFormat::Unix, max_size: None }
    }

    /// A layer of Linux onto a tree that holds the layers below, of any size.
    pub fn native() -> Self {
        ApplyOptions { whiteouts: Whiteouts::Delete, ..ApplyOptions::overlay() }
    }
}

/// What a layer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Digest of the tar stream.
    pub diff_id: Digest,
    /// Length of the tar stream in bytes.
    pub diff_size: u64,
    /// Bytes of file content that were written.
    pub size: u64,
    /// Folders that the layer has files in but no entry for, parents first. They were made with mode 0755 and owner 0:0;
    /// [`adopt_parents`] gives them what they have in the layers below.
    pub implied: Vec<PathBuf>,
}

/// Unpacks the layer that `input` holds, compressed in any known way or not, into `dest`. The stream is read to its end.
/// A caller cancels by letting `input` fail.
///
/// # Errors
///
/// As [`crate::Error`] says; the tree is then half-made.
pub fn apply<R: Read + Send + 'static>(input: R, dest: &Root, options: &ApplyOptions) -> Result<Applied> {
    imp::apply(crate::compress::decompress(input)?, dest, options)
}

/// Gives folders of `upper` that a layer only implied ([`Applied::implied`]) the owner, mode, times and extended
/// attributes that they have in `lower`, the tree of the layers below. Those that are no folder there stay.
///
/// # Errors
///
/// [`crate::Error::Unpack`] with the folder.
pub fn adopt_parents(upper: &Root, implied: &[PathBuf], lower: &Root) -> Result<()> {
    imp::adopt_parents(upper, implied, lower)
}

#[cfg(not(unix))]
use other as imp;
#[cfg(unix)]
use unix as imp;
