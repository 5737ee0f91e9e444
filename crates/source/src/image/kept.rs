//! Documents of images that stay for a while after a build: with them, the next build needs no network.
//!
//! ```text
//! lease resolved/<origin>@<manifest digest>    holds index, manifest and config
//!       origin                                 docker.io/library/busybox; oci-layout/<store>
//! ```
//!
//! The origin is part of the name because a digest alone proves nothing: who names one under a repository that never served it is
//! not given what another repository did.

use kiln_oci::{Digest, Reference};
use kiln_store::{Error, LeaseId, LeaseInfo, Resource, Store};

use super::{ResolvedImage, place::Where};

/// How long documents are kept after they were last asked for, in seconds. A ref of the image keeps them for as long as it lives.
const KEEP: u64 = 7 * 24 * 3600;
/// With which the names of these leases begin.
const PREFIX: &str = "resolved/";

/// Where an image's documents came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin(String);

impl Origin {
    pub(super) fn of(place: &Where, reference: &Reference) -> Self {
        Self(match place {
            Where::Registry => reference.name(),
            Where::Layout { store, .. } => format!("oci-layout/{store}"),
        })
    }

    fn prefix(&self) -> String {
        format!("{PREFIX}{}@", self.0)
    }

    /// Whether this origin has served the document `digest`, and it is still kept for that.
    pub(super) fn served(&self, store: &Store, digest: &Digest) -> Result<bool, Error> {
        let prefix = self.prefix();
        let holders = store.holders(&Resource::Blob(digest.clone()))?;
        Ok(holders.iter().any(|lease| lease.0.starts_with(&prefix)))
    }

    /// Keeps the documents of an image of this origin, from now on.
    pub(super) fn keep(&self, store: &Store, image: &ResolvedImage) -> Result<(), Error> {
        let id = LeaseId(format!("{}{}", self.prefix(), image.manifest.digest));
        let mut info = LeaseInfo::lasting();
        info.expires = Some(info.created + KEEP);
        store.change(|tx| {
            tx.create_lease(&id, &info);
            for digest in &image.documents {
                tx.hold(&id, &Resource::Blob(digest.clone()))?;
            }
            Ok(())
        })
    }
}

/// Ends what is kept of all images; what refs hold stays with them.
pub(super) fn forget(store: &Store) -> Result<usize, Error> {
    store.release_named(PREFIX)
}
