//! Where an imported cache is.

use std::sync::Arc;

use kiln_oci::{Descriptor, Digest, Reference};
use kiln_registry::{Auth, Registries, Remote};
use kiln_session::Group;
use kiln_source::image::Place;

use crate::{Error, ImportFrom, ImportOptions};

/// The place of a cache, with whoever answers for the build that imports it.
#[derive(Clone, Debug)]
pub(crate) struct ImportPlace {
    pub(crate) options: ImportOptions,
    pub(crate) registries: Arc<Registries>,
    pub(crate) sessions: Group,
}

impl ImportPlace {
    /// What people call the cache.
    pub(crate) fn name(&self) -> String {
        match &self.options.from {
            ImportFrom::Local { src, .. } => format!("local:{src}"),
            ImportFrom::Registry { name, .. } => name.clone(),
        }
    }

    /// The repository that its layers are in, for pushes that need not send them.
    pub(crate) fn repository(&self) -> Option<String> {
        match &self.options.from {
            ImportFrom::Local { .. } => None,
            ImportFrom::Registry { name, .. } => {
                Some(Reference::parse(name).ok()?.with_default_tag().to_string())
            }
        }
    }

    fn bad(&self, kind: &str, problem: impl std::fmt::Display) -> Error {
        Error::Attribute { door: "importer", kind: kind.to_owned(), problem: problem.to_string() }
    }

    /// Finds the cache's manifest or index.
    pub(crate) async fn open(&self) -> Result<(Place, Descriptor), Error> {
        match &self.options.from {
            ImportFrom::Local { src, digest } => {
                if src.is_empty() || digest.is_empty() {
                    return Err(self.bad("local", "requires src and an explicit digest"));
                }
                let digest = Digest::parse(digest).map_err(|error| self.bad("local", error))?;
                let place = Place::Layout { sessions: self.sessions.clone(), store: format!("local:{src}") };
                let size = place.blob_size(&self.name(), &digest).await?;
                Ok((place, Descriptor::new("", digest, size)))
            }
            ImportFrom::Registry { name, insecure } => {
                if name.is_empty() {
                    return Err(self.bad("registry", "requires ref"));
                }
                let reference = Reference::parse(name).map_err(|error| self.bad("registry", error))?;
                let (remote, root) = self.resolve(&reference.with_default_tag(), *insecure).await?;
                Ok((Place::Registry(remote), root))
            }
        }
    }

    async fn resolve(&self, reference: &Reference, insecure: bool) -> Result<(Remote, Descriptor), Error> {
        let auth = Auth::Group(self.sessions.clone());
        let target = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.as_str(),
            (None, tag) => tag.unwrap_or(kiln_oci::DEFAULT_TAG),
        };
        let failed = |source| Error::Registry { name: reference.to_string(), source };
        if !insecure {
            let remote = self.registries.remote(reference, auth);
            let root = remote.resolve(target).await.map_err(failed)?.descriptor;
            return Ok((remote, root));
        }
        let [first, second] = Registries::insecure(reference, &auth);
        let error = match first.resolve(target).await {
            Ok(root) => return Ok((first, root.descriptor)),
            Err(error) => error,
        };
        match second.resolve(target).await {
            Ok(root) => Ok((second, root.descriptor)),
            Err(_) => Err(failed(error)),
        }
    }
}
