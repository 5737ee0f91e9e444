//! Where an image's documents and layers are: a registry's repository, or a client's content store.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture};
use kiln_oci::{Descriptor, Digest, Reference, media_type};
use kiln_registry::{Auth, Registries, Remote, Resolved};
use kiln_session::{Group, caller::ContentStore};
use kiln_worker::{BlobProvider, BlobStream, ProviderError};

use crate::Error;

/// The largest document (manifest, index, config) that is read, in bytes.
pub(super) const MAX_DOCUMENT: u64 = 16 << 20;

/// How to find the place of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Where {
    /// The registry that the reference names.
    Registry,
    /// A content store of a client: the session that has it, if one is named, and the store's name.
    Layout { session: Option<String>, store: String },
}

/// Reads an image, with the credentials of one build.
#[derive(Clone)]
pub enum Place {
    /// A repository of a registry.
    Registry(Remote),
    /// A content store of a client, by the name that the client knows it by.
    Layout {
        /// The clients that may be asked.
        sessions: Group,
        /// The store's name.
        store: String,
    },
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(_) => f.write_str("registry"),
            Self::Layout { store, .. } => write!(f, "layout {store}"),
        }
    }
}

impl Place {
    pub(crate) fn new(
        place: &Where,
        registries: &Arc<Registries>,
        reference: &Reference,
        sessions: &Group,
    ) -> Self {
        match place {
            Where::Registry => Self::Registry(registries.remote(reference, Auth::Group(sessions.clone()))),
            Where::Layout { session, store } => {
                let sessions =
                    session.as_ref().map_or_else(|| sessions.clone(), |id| sessions.preferring(id));
                // Clients keep what they offer as layouts apart from their other stores.
                Self::Layout { sessions, store: format!("oci:{store}") }
            }
        }
    }

    /// The same place, on behalf of others.
    #[must_use]
    pub fn with_sessions(&self, sessions: Group) -> Self {
        match self {
            Self::Registry(remote) => Self::Registry(remote.with_auth(Auth::Group(sessions))),
            Self::Layout { store, .. } => Self::Layout { sessions, store: store.clone() },
        }
    }

    /// The size of a blob that no manifest describes.
    ///
    /// # Errors
    /// [`Error::Registry`] naming `shown`; the client's.
    pub async fn blob_size(&self, shown: &str, digest: &Digest) -> Result<u64, Error> {
        match self {
            Self::Registry(remote) => {
                let failed = |source| Error::Registry { reference: shown.to_owned(), source };
                remote.blob_size(digest).await.map_err(failed)
            }
            Self::Layout { sessions, store } => {
                let size = sessions.any("an OCI layout", |session| async move {
                    ContentStore::new(session, store)?.size(digest.as_str()).await
                });
                Ok(size.await?)
            }
        }
    }

    /// The descriptor of a tag or digest.
    pub(super) async fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        let shown = reference.to_string();
        match self {
            Self::Registry(remote) => {
                let target = match (reference.digest(), reference.tag()) {
                    (Some(digest), _) => digest.as_str(),
                    (None, tag) => tag.unwrap_or(kiln_oci::DEFAULT_TAG),
                };
                let failed = |source| Error::Registry { reference: shown, source };
                remote.resolve(target).await.map_err(failed)
            }
            Self::Layout { .. } => {
                let bad =
                    |problem: &str| Error::Image { reference: shown.clone(), problem: problem.to_owned() };
                let digest =
                    reference.digest().ok_or_else(|| bad("an OCI layout's image is named by its digest"))?;
                let content = self.document_of_layout(digest).await?;
                let media_type =
                    media_type_of(&content).ok_or_else(|| bad("is neither a manifest nor an index"))?;
                let descriptor = Descriptor::new(media_type, digest.clone(), content.len() as u64);
                Ok(Resolved { descriptor, content: Some(content) })
            }
        }
    }

    /// A manifest or an index. Of a layout's the caller verifies the digest.
    ///
    /// # Errors
    /// [`Error::Registry`] naming `shown`; the client's.
    pub async fn manifest(&self, shown: &str, descriptor: &Descriptor) -> Result<Bytes, Error> {
        match self {
            Self::Registry(remote) => {
                let failed = |source| Error::Registry { reference: shown.to_owned(), source };
                remote.manifest(descriptor).await.map_err(failed)
            }
            Self::Layout { .. } => self.document_of_layout(&descriptor.digest).await,
        }
    }

    /// What refers to a manifest. A client's content store cannot be asked that.
    pub(super) async fn referrers(&self, shown: &str, digest: &Digest) -> Result<Vec<Descriptor>, Error> {
        match self {
            Self::Registry(remote) => {
                let failed = |source| Error::Registry { reference: shown.to_owned(), source };
                remote.referrers(digest).await.map_err(failed)
            }
            Self::Layout { .. } => Ok(Vec::new()),
        }
    }

    /// A config or another small blob, of at most 16 MiB. The caller verifies it.
    ///
    /// # Errors
    /// [`Error::Image`] for one that is larger, [`Error::Registry`] naming `shown`; the client's.
    pub async fn small_blob(&self, shown: &str, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let bad = |problem: String| Error::Image { reference: shown.to_owned(), problem };
        if descriptor.size > MAX_DOCUMENT {
            return Err(bad(format!(
                "{} has {} bytes, more than {MAX_DOCUMENT}",
                descriptor.digest, descriptor.size
            )));
        }
        match self {
            Self::Registry(remote) => {
                let failed = |source| Error::Registry { reference: shown.to_owned(), source };
                let chunks: Vec<Bytes> =
                    remote.blob(descriptor, 0).await.map_err(failed)?.try_collect().await.map_err(failed)?;
                Ok(chunks.concat().into())
            }
            Self::Layout { .. } => self.document_of_layout(&descriptor.digest).await,
        }
    }

    async fn document_of_layout(&self, digest: &Digest) -> Result<Bytes, Error> {
        let Self::Layout { sessions, store } = self else { return Ok(Bytes::new()) };
        let content = sessions.any("an OCI layout", |session| async move {
            let mut stream = Box::pin(ContentStore::new(session, store)?.read(digest.as_str(), 0).await?);
            let mut content = Vec::new();
            while let Some(chunk) = stream.try_next().await? {
                content.extend_from_slice(&chunk);
                if content.len() as u64 > MAX_DOCUMENT {
                    return Err(tonic_size(digest));
                }
            }
            Ok(content)
        });
        Ok(content.await?.into())
    }
}

fn tonic_size(digest: &Digest) -> kiln_session::Error {
    kiln_session::Error::Io {
        what: format!("reading {digest}"),
        source: std::io::Error::other(format!("more than {MAX_DOCUMENT} bytes")),
    }
}

/// What a manifest says of itself; old ones say nothing and are told apart by what they hold.
pub fn media_type_of(content: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Sniffed {
        #[serde(default)]
        media_type: String,
        config: Option<serde::de::IgnoredAny>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let sniffed: Sniffed = serde_json::from_slice(content).ok()?;
    match sniffed {
        Sniffed { media_type, .. } if !media_type.is_empty() => Some(media_type),
        Sniffed { manifests: Some(_), .. } => Some(media_type::OCI_INDEX.to_owned()),
        Sniffed { config: Some(_), .. } => Some(media_type::OCI_MANIFEST.to_owned()),
        Sniffed { .. } => None,
    }
}

impl BlobProvider for Place {
    fn open<'a>(
        &'a self,
        blob: &'a Descriptor,
        offset: u64,
    ) -> BoxFuture<'a, Result<BlobStream, ProviderError>> {
        async move {
            match self {
                Self::Registry(remote) => {
                    let stream = remote.blob(blob, offset).await?;
                    Ok(stream.map_err(ProviderError::from).boxed())
                }
                Self::Layout { sessions, store } => {
                    let stream = sessions.any("an OCI layout", |session| async move {
                        ContentStore::new(session, store)?.read(blob.digest.as_str(), offset).await
                    });
                    Ok(stream.await?.map_err(ProviderError::from).boxed())
                }
            }
        }
        .boxed()
    }
}
