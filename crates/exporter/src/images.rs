//! Images that are kept in the store under their names.
//!
//! ```text
//! table images        name → {"target":{descriptor},"created":seconds}
//! lease image/<name>  holds the image's manifests, configs and layers
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use kiln_oci::{Descriptor, Digest};
use kiln_store::{Json, LeaseId, Resource, Store, Table};
use serde::{Deserialize, Serialize};

use crate::error::Result;

const IMAGES: Table<String, Json<Image>> = Table::new("images");

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its manifest or index.
    pub target: Descriptor,
    /// When it got this name, in seconds since 1970.
    pub created: u64,
}

/// The images of a store, by name.
#[derive(Clone, Debug)]
pub struct Images {
    store: Store,
}

impl Images {
    /// The images of `store`.
    pub fn new(store: &Store) -> Self {
        Images { store: store.clone() }
    }

    /// The image of that name.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Store`].
    pub fn get(&self, name: &str) -> Result<Option<Image>> {
        Ok(self.store.db().get(&IMAGES, &name.to_owned())?.map(|Json(image)| image))
    }

    /// All images with their names, in order.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Store`].
    pub fn list(&self) -> Result<Vec<(String, Image)>> {
        let rows = self.store.db().prefix(&IMAGES, &())?;
        Ok(rows.into_iter().map(|(name, Json(image))| (name, image)).collect())
    }

    /// Gives `target` a name, in place of what had it. The blobs, those that are here, are held while it has the name.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Store`].
    pub fn put(&self, name: &str, target: &Descriptor, blobs: &[Digest]) -> Result<()> {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let image = Image { target: target.clone(), created };
        let lease = lease(name);
        let content = self.store.content();
        let mut here = Vec::with_capacity(blobs.len());
        for blob in blobs {
            if content.stat(blob)?.is_some() {
                here.push(Resource::Blob(blob.clone()));
            }
        }
        let before = self.store.held_by(&lease)?;
        Ok(self.store.change(|tx| {
            tx.create_lease(&lease, &kiln_store::LeaseInfo::lasting());
            for resource in &here {
                tx.hold(&lease, resource)?;
            }
            for resource in before.iter().filter(|resource| !here.contains(resource)) {
                tx.unhold(&lease, resource);
            }
            tx.put(&IMAGES, &name.to_owned(), &Json(image));
            Ok::<_, kiln_store::Error>(())
        })?)
    }

    /// Takes a name away. Returns whether it was one.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Store`].
    pub fn remove(&self, name: &str) -> Result<bool> {
        Ok(self.store.change(|tx| {
            let known = tx.get(&IMAGES, &name.to_owned())?.is_some();
            if known {
                tx.delete(&IMAGES, &name.to_owned());
                tx.release(&lease(name))?;
            }
            Ok::<_, kiln_store::Error>(known)
        })?)
    }

    /// Takes all names away; returns how many there were.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Store`].
    pub fn clear(&self) -> Result<usize> {
        let names = self.list()?;
        for (name, _) in &names {
            self.remove(name)?;
        }
        Ok(names.len())
    }
}

fn lease(name: &str) -> LeaseId {
    LeaseId(format!("image/{name}"))
}
