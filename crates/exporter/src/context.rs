//! What an export works with: the store, the client, registries, progress.

use std::{io::Write, sync::Arc};

use futures::future::BoxFuture;
use kiln_oci::Digest;
use kiln_registry::{Auth, Registries};
use kiln_store::{Lease, LeaseId, Store};

use crate::{
    client::Client,
    error::{RefError, Result},
    source::{Layer, LayerWish},
};

/// Is told of the steps of an export, under the vertex that the export is.
pub trait Reporter: Send + Sync {
    /// A step has begun. Steps with the same name are one.
    fn started(&self, step: &str);
    /// A step has come to `current` of `total` bytes; 0 if the total is not known.
    fn moved(&self, step: &str, current: u64, total: u64);
    /// A step is over.
    fn ended(&self, step: &str, error: Option<&str>);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn started(&self, _: &str) {}
    fn moved(&self, _: &str, _: u64, _: u64) {}
    fn ended(&self, _: &str, _: Option<&str>) {}
}

/// Writes the build's cache into the images that it exports.
pub trait InlineCache: Send + Sync {
    /// What goes into the config of the image for `platform`, whose layers these are; `None` when there is nothing to say.
    fn of<'a>(
        &'a self,
        platform: &'a str,
        layers: &'a [Layer],
        wish: &'a LayerWish,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, RefError>>;
}

/// Everything around an export. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    /// Where blobs lie.
    pub store: Store,
    /// Holds the blobs that the export writes. Whoever wants them later holds them before this ends.
    pub lease: Arc<Lease>,
    /// Where archives and folders go; `None` if the build has no client to send to.
    pub client: Option<Arc<dyn Client>>,
    /// Who watches.
    pub reporter: Arc<dyn Reporter>,
    /// Where images are pushed to.
    pub registries: Arc<Registries>,
    /// As whom.
    pub auth: Auth,
    /// What images carry along of the build's cache.
    pub inline_cache: Option<Arc<dyn InlineCache>>,
}

impl Context {
    pub(crate) fn lease(&self) -> &LeaseId {
        self.lease.id()
    }

    /// Puts a small blob into the content store. Blocks.
    pub(crate) fn write_blob(&self, bytes: &[u8], expected: &Digest) -> Result<()> {
        let mut ingest = self.store.content().ingest()?;
        ingest.write_all(bytes).map_err(crate::Error::io(format!("write blob {expected}")))?;
        ingest.commit(&self.store, self.lease(), Some(expected), Some(bytes.len() as u64))?;
        Ok(())
    }

    /// Reads a manifest, index or config. Blocks.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        Ok(self.store.content().read(digest, crate::image::MAX_JSON)?)
    }

    /// Begins a step of the export.
    #[must_use]
    pub fn step(&self, name: &str) -> Step {
        self.reporter.started(name);
        Step { reporter: Arc::clone(&self.reporter), name: name.to_owned(), ended: false }
    }

    pub(crate) fn client(&self) -> Result<&Arc<dyn Client>> {
        let none = || crate::Error::Conflict("the build has no session to send its output to".into());
        self.client.as_ref().ok_or_else(none)
    }
}

/// A step under way. Dropped, it ends as cancelled.
pub struct Step {
    reporter: Arc<dyn Reporter>,
    name: String,
    ended: bool,
}

impl Step {
    /// The step has come to `current` of `total` bytes.
    pub fn moved(&self, current: u64, total: u64) {
        self.reporter.moved(&self.name, current, total);
    }

    /// Ends the step with the outcome of its work, which it gives back.
    pub fn end<T, E: std::fmt::Display>(mut self, outcome: Result<T, E>) -> Result<T, E> {
        self.ended = true;
        let error = outcome.as_ref().err().map(ToString::to_string);
        self.reporter.ended(&self.name, error.as_deref());
        outcome
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.reporter.ended(&self.name, Some("context canceled"));
        }
    }
}
