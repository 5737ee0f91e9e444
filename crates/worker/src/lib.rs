//! Refs: the file trees that builds make, use and keep.
//!
//! | type | is |
//! |---|---|
//! | [`ImmutableRef`] | a tree that never changes. Its files may not be here: it is then *lazy*, known by its layer's blob, or as a merge or difference of others |
//! | [`Unpacked`] | an [`ImmutableRef`] whose files are on disk: can be mounted |
//! | [`MutableRef`] | a tree that is being written; [`commit`](MutableRef::commit) turns it into an [`ImmutableRef`] |
//! | [`CacheMount`] | a named folder that outlives builds and is written by many |
//!
//! A ref is a handle. While one lives, its record, and those of its parents, are *in use* and cannot be pruned. A mutable
//! ref dropped uncommitted is removed in the background, unless it is kept ([`RefOptions::retain`]).
//!
//! [`Worker::disk_usage`] and [`Worker::prune`] look at the records; [`EngineCache`] keeps the engine's cache keys beside
//! them, so that a record and the cache results that name it go in one transaction.

mod cache_mount;
mod ceiling;
mod engine_cache;
mod error;
mod filter;
mod id;
mod layers;
mod merge;
mod mount_points;
mod mutable;
mod node;
mod problems;
mod prune;
mod record;
mod refs;
mod unlazy;
mod usage;
mod worker;
mod writing;

pub use cache_mount::{
    CacheMount, Frozen, FrozenMount, KnownMount, MountContent, MountFiller, MountWish, Sharing, unpack_mount,
};
pub use ceiling::{Announcement, Growth, Writes, ceiling_of};
pub use engine_cache::{CacheResults, EngineCache};
pub use error::Error;
pub use filter::{Filter, FilterError};
pub use id::RefId;
pub use layers::{LayerBlob, RemoteOptions};
pub use mutable::MutableRef;
pub use prune::{GcPolicy, PruneOptions, default_gc_policy};
pub use record::{Parents, RecordType};
pub use refs::{ImmutableRef, Unpacked};
pub use unlazy::{BlobProvider, BlobStream, LayerEvent, NoProviders, ProviderError, Providers};
pub use usage::DiskRecord;
pub use worker::{LayerSource, RefOptions, Worker};
