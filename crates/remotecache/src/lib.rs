//! Caches that travel: what a build has made is written where another daemon, ours or BuildKit's, finds it again.
//!
//! ```text
//!   finished build ─▶ collect ─▶ Collected ─▶ config, layers ─▶ Target     a client's folder, a registry
//!                                         └─▶ inline                       records in an image's config
//!
//!   place ─▶ import ─▶ CacheGraph ─▶ ImportedCache ─▶ the engine           lazily: keys now, layers when needed
//! ```
//!
//! Cache mounts travel beside a cache when the client asks for them; [`mounts`] draws how.
//!
//! [`CacheConfig`] is the format on the wire. What is read of it was written by strangers: [`CacheGraph`] checks everything,
//! and a cache that is damaged is a warning and a build without it.

mod collect;
pub mod config;
mod error;
mod graph;
mod import;
mod imports;
mod inline;
mod mounts;
mod options;
mod place;
mod progress;
mod store;
mod target;

pub use collect::{Collected, collect};
pub use config::CacheConfig;
pub use error::Error;
pub use graph::{CacheGraph, Lower};
pub use imports::Imports;
pub use inline::inline;
pub use mounts::{ExportedMount, MountSelection, MountsWanted};
pub use options::{Attributes, ExportOptions, Form, ImportFrom, ImportOptions, Mode, Place, exports};
pub use store::ImportedCache;
pub use target::{MANIFEST, Target, response};
