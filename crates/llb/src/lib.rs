//! LLB, the graph of operations that a build is made of.
//!
//! A [`Definition`](kiln_proto::pb::Definition) holds encoded ops. The digest of an op is the SHA-256 of its bytes,
//! and ops name their inputs by digest, so a definition is a Merkle graph:
//!
//! ```text
//! def[0]  source  docker-image://…            ◀──┐
//! def[1]  exec    inputs: [def[0]@0]          ◀──┼─┐
//! def[2]  file    inputs: [def[1]@0, def[0]@0] ──┘ │ ◀─┐
//! def[3]  (no op) inputs: [def[2]@0]               ┘   │   the last op only names the result
//! metadata[digest]                                     ┘   name, caps, progress group; not part of the digest
//! ```
//!
//! - [`Graph`] reads and checks a definition that came from somewhere else.
//! - [`build`] makes definitions: start at [`build::image`], [`build::local`] or [`build::State::scratch`].
//! - [`source`] reads the identifier and attributes of a source op into types.
//! - [`policy`] decides which sources a build may use, and [`rewrite`] puts others in their place.
//! - [`marshal`] encodes an op in the byte order that all implementations share.
//! - [`caps`] are the names of what a daemon can do, [`attr`] those of source attributes.

pub mod attr;
pub mod build;
pub mod caps;
mod error;
mod graph;
pub mod marshal;
pub mod policy;
pub mod rewrite;
pub mod source;
mod validate;

pub use error::Error;
pub use graph::{Edge, Graph, MAX_OPS, Vertex};

/// The index that means "no input": scratch.
pub const EMPTY: i64 = -1;
/// The output index that means "no output".
pub const SKIP_OUTPUT: i64 = -1;
/// Where an exec mounts its root.
pub const ROOT_MOUNT: &str = "/";

/// Whether the identity of a cache mount takes part in the key of its step: only where it is the one that a Dockerfile gives by
/// default, the mount's target with or without a namespace before it, and shared.
pub fn cache_mount_counts(mount: &kiln_proto::pb::Mount) -> bool {
    let Some(cache) = &mount.cache_opt else { return false };
    let shared = cache.sharing == kiln_proto::pb::CacheSharingOpt::Shared as i32;
    let by_default =
        cache.id == mount.dest || cache.id.split_once('/').is_some_and(|(_, dest)| dest == mount.dest);
    shared && by_default
}

#[cfg(test)]
mod tests;
