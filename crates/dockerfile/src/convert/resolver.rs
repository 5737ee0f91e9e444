//! What a conversion needs from outside.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;

use bytes::Bytes;
use kiln_llb::source::ResolveMode;
use kiln_oci::{Digest, Platform, Time};
use kiln_proto::pb;

/// An error of the resolver; it comes back as [`super::Failure::Outside`].
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An image whose config is wanted.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The complete reference.
    pub reference: String,
    /// The platform; the worker's when `None`.
    pub platform: Option<Platform>,
    /// When to ask the registry.
    pub resolve_mode: ResolveMode,
    /// What progress says.
    pub log_name: String,
    /// The image is in an OCI layout of a client rather than in a registry.
    pub oci_layout: Option<OciStore>,
}

/// An OCI layout of a client.
#[derive(Debug, Clone)]
pub struct OciStore {
    /// The session that has it.
    pub session_id: String,
    /// The content store's name.
    pub store_id: String,
}

/// An image that was found.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The reference, changed if a policy wants another image.
    pub reference: String,
    /// What the reference stands for now: index or manifest.
    pub digest: Option<Digest>,
    /// The config blob.
    pub config: Bytes,
}

/// A policy puts something that is no image in an image's place.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reference}: a policy puts {identifier} in its place")]
pub struct Replaced {
    /// The image that was asked for.
    pub reference: String,
    /// The identifier of the other source: `local://folder`, `https://…`.
    pub identifier: String,
}

/// When a source was last changed.
#[derive(Debug, Clone, Default)]
pub struct SourceTime {
    /// The time of the commit, or that the server names; `None` when there is none.
    pub time: Option<Time>,
}

/// What the frontend's host can be asked for. Calls come side by side.
pub trait Resolver: Sync {
    /// A solved definition whose files can be read.
    type Ref: Send + Sync;

    /// Finds an image and its config; [`Replaced`] as an error is known to named contexts.
    fn resolve_image(
        &self,
        request: ImageRequest,
    ) -> impl Future<Output = Result<ResolvedImage, BoxError>> + Send;

    /// Solves a definition.
    fn solve(&self, definition: pb::Definition) -> impl Future<Output = Result<Self::Ref, BoxError>> + Send;

    /// Reads a file of a result, `limit` bytes of it at most. `None` when there is no such file.
    fn read_file(
        &self,
        reference: &Self::Ref,
        path: &str,
        limit: Option<u64>,
    ) -> impl Future<Output = Result<Option<Bytes>, BoxError>> + Send;

    /// Definitions that the client gave in place of folders, by name.
    fn inputs(&self) -> impl Future<Output = Result<BTreeMap<String, pb::Definition>, BoxError>> + Send;

    /// When a git or web source was last changed, for `SOURCE_DATE_EPOCH`.
    fn source_time(
        &self,
        source: pb::SourceOp,
        log_name: String,
    ) -> impl Future<Output = Result<SourceTime, BoxError>> + Send;
}
