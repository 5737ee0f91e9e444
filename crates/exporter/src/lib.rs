//! Results become outputs: images in the store and in registries, archives, folders; with statements about them.
//!
//! An [`Exporter`] is made of a client's type and attributes; [`Exporter::export`] takes a [`Source`] — the trees that a
//! build returned, with what the frontend said of them — and a [`Context`] — store, client, registries, progress. What is
//! pushed is pushed at the end, by [`Exported::push`], when all exporters of a build have succeeded; layers that are there before
//! the result is may be packed and sent [ahead](Exporter::ahead), but nothing names them until then.

mod ahead;
mod annotations;
mod archive;
pub mod attestation;
mod client;
mod context;
mod error;
mod exporter;
mod files;
mod image;
mod images;
mod options;
mod pipe;
mod push;
pub mod source;
#[cfg(all(test, unix))]
mod tests;
mod worker;

pub use ahead::Sent;
pub use annotations::{AnnotationSet, Annotations};
pub use attestation::Attestation;
pub use client::{Client, FileSink, SessionClient};
pub use context::{Context, InlineCache, Reporter, Silent, Step};
pub use error::{Error, RefError, Result};
pub use exporter::{CONFIG_DIGEST, DESCRIPTOR, Exported, Exporter, IMAGE_DIGEST};
pub use images::{Image, Images};
pub use options::{ArchiveOptions, FileOptions, ImageOptions, StoreOptions};
pub use push::{Push, body as blob_body, insecure as insecure_remote};
pub use source::{Layer, LayerWish, ResultPlatform, ResultRef, Source, Tree};
pub use worker::WorkerRef;
