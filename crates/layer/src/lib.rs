//! Layers: tar streams on one side, file trees on the other.
//!
//! - [`apply`] unpacks a layer into a snapshot, [`add`] an archive that `ADD` names;
//! - [`diff`] writes what a snapshot changed as a layer;
//! - [`compress`] packs and unpacks streams, with the digests of both sides, in one pass;
//! - [`tar`] reads and writes entries.
//!
//! Everything blocks: call it from threads made for that.

pub mod add;
pub mod apply;
pub mod compress;
pub mod diff;
mod error;
pub mod tar;
#[cfg(any(unix, test))]
mod windows;

pub use apply::{Applied, ApplyOptions, Whiteouts, apply};
pub use compress::{Compression, Decompressed, Format, LayerWriter, Settings, Written, decompress};
pub use diff::{DiffOptions, Times};
pub use error::{Error, Result};

/// The two ways in which layers hold a file tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LayerFormat {
    /// Names as they are.
    #[default]
    Unix,
    /// Windows: the tree stands under `Files/` beside `Hives/`, with `MSWINDOWS.*` records.
    Windows,
}
