//! File trees: handles that nothing leads out of, walks, transfers, hashes and file operations.
//!
//! * [`Root`] is a tree; every path given to it is resolved by the kernel as if it were `/`. [`Dir`] is one open folder
//!   in it: the door through which ownership, modes, times, devices and extended attributes are read and written.
//! * [`walk`] goes through a tree, whole or filtered by patterns.
//! * [`diffcopy`] brings a tree to another machine and keeps it up to date, in BuildKit's protocol.
//! * [`contenthash`] computes BuildKit's content checksums.
//! * [`fileop`] does what LLB's file operations say.

pub mod contenthash;
mod cores;
pub mod diffcopy;
mod dir;
mod error;
pub mod fileop;
mod filter;
mod follow;
pub mod meta;
mod names;
mod root;
pub mod walk;

pub use dir::{Dir, DirEntry, SetTimes, file};
pub use error::{Context, Error, Result};
pub use filter::{Filter, MapFn, Mapped};
pub use meta::{Kind, Metadata, Time, Xattrs};
pub use root::Root;
