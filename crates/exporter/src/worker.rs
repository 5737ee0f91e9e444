//! The worker's refs as results.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use kiln_fstree::Root;
use kiln_oci::{Digest, Time};
use kiln_worker::{ImmutableRef, LayerBlob, Providers, RemoteOptions};

use crate::{
    error::RefError,
    source::{Layer, LayerWish, ResultRef},
};

/// A ref of the worker, with what its lazy layers can be fetched with.
pub struct WorkerRef {
    tree: ImmutableRef,
    providers: Arc<dyn Providers>,
    /// The layers that were asked for, by blob.
    known: Mutex<HashMap<Digest, LayerBlob>>,
}

impl WorkerRef {
    /// The ref as a result.
    pub fn new(tree: ImmutableRef, providers: Arc<dyn Providers>) -> Self {
        WorkerRef { tree, providers, known: Mutex::default() }
    }

    fn known(&self, digest: &Digest) -> Option<LayerBlob> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// The ref.
    pub fn tree(&self) -> &ImmutableRef {
        &self.tree
    }
}

impl ResultRef for WorkerRef {
    fn layers<'a>(&'a self, wish: &'a LayerWish) -> BoxFuture<'a, Result<Vec<Layer>, RefError>> {
        Box::pin(async move {
            let options = RemoteOptions { settings: wish.settings, force: wish.force };
            let blobs = self.tree.layers(options, Arc::clone(&self.providers)).await?;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.extend(blobs.iter().map(|blob| (blob.descriptor.digest.clone(), blob.clone())));
            let layers = blobs.into_iter().map(|blob| Layer {
                created: Some(Time::from(blob.of.created())),
                description: blob.of.description(),
                repositories: blob.of.image_refs(),
                descriptor: blob.descriptor,
                diff_id: blob.diff_id,
            });
            Ok(layers.collect())
        })
    }

    fn fetch<'a>(&'a self, layer: &'a Layer) -> BoxFuture<'a, Result<(), RefError>> {
        Box::pin(async move {
            let blob = self.known(&layer.descriptor.digest);
            match blob {
                Some(blob) => Ok(blob.fetch(Arc::clone(&self.providers)).await?),
                // One that an exporter made of another layer lies in the store already.
                None => Ok(()),
            }
        })
    }

    fn pushed(&self, layer: &Layer, repository: &str) -> Result<(), RefError> {
        match self.known(&layer.descriptor.digest) {
            Some(blob) => Ok(blob.of.add_image_ref(repository)?),
            None => Ok(()),
        }
    }

    fn open(&self) -> BoxFuture<'_, Result<Root, RefError>> {
        Box::pin(async move {
            let files = self.tree.unpack(Arc::clone(&self.providers)).await?;
            // The tree stays while this ref is in use; the mount itself needs no more.
            Ok(tokio::task::spawn_blocking(move || files.open()).await??)
        })
    }
}
