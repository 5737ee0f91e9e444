//! Cache mounts that travel beside a cache.
//!
//! In the cache's manifest, or index, each is one more descriptor among those of the layers:
//!
//! ```text
//! mediaType    application/vnd.kiln.cachemount.v0.tar, +gzip or +zstd
//! digest       a tar of everything below the mount's folder, packed as the cache's layers are
//! annotations  dev.kiln.cachemount.id       the mount's id in LLB; that of a Dockerfile begins with a slash
//!              dev.kiln.cachemount.base     content digest of the files it began with; absent: it began empty
//!              dev.kiln.cachemount.owner    uid:gid of the folder
//!              dev.kiln.cachemount.mode     its mode, octal
//!              dev.kiln.cachemount.size     length of the tar in bytes
//!              containerd.io/uncompressed   digest of the tar
//! ```
//!
//! The cache's config names none of them, so whoever does not know them, like BuildKit, never looks at them. Nothing of it
//! says when it was written: a mount that has not changed leaves the manifest as it was.

mod carry;
mod export;
mod format;
mod restore;
mod selection;

pub(crate) use export::KeptMount;
pub use export::{ExportedMount, MountsWanted};
pub(crate) use format::{MountEntry, read};
pub(crate) use restore::restore;
pub use selection::MountSelection;
pub(crate) use selection::{ATTRIBUTE, shown};
