//! Pushing blobs and manifests.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use kiln_oci::{Descriptor, Digest, Reference};
use reqwest::Body;

use crate::{
    Error, Remote,
    config::Endpoint,
    retry::retry,
    transport::{Call, refuse, shown},
    upload::{Upload, mount},
};

/// Repositories that the registry is asked to take a blob from, at most: each takes a request or two.
const NEIGHBOURS: usize = 4;

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// Its bytes were sent.
    Sent,
}

impl Remote {
    /// The registry itself: mirrors take no pushes.
    fn target(&self) -> Result<&Endpoint, Error> {
        let none = || Error::NotFound { reference: self.name.clone() };
        self.endpoints.iter().find(|e| !e.mirror).ok_or_else(none)
    }

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// Any answer but yes and no.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let endpoint = self.target()?;
        let url = self.url(endpoint, &format!("blobs/{digest}"))?;
        retry(async || {
            let response = self.send(endpoint, &Call::new(Method::HEAD, url.clone()), true).await?;
            match response.status() {
                status if status.is_success() => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(refuse("HEAD", &self.shown(digest.as_str()), response).await),
            }
        })
        .await
    }

    /// Has the repository have a blob without any of its bytes: it has it, or takes it from one of `sources`, those known
    /// longest first, on the same registry. `None`: they must be sent.
    ///
    /// # Errors
    /// The registry's, after some tries.
    pub async fn spare_blob(
        &self,
        descriptor: &Descriptor,
        sources: &[Reference],
    ) -> Result<Option<Pushed>, Error> {
        if self.has_blob(&descriptor.digest).await? {
            return Ok(Some(Pushed::Existed));
        }
        let taken = mount(self, self.target()?, &descriptor.digest, &self.neighbours(sources)).await?;
        Ok(taken.then_some(Pushed::Mounted))
    }

    /// Those of `sources` that are other repositories of the same registry: a few of the last, the last first.
    fn neighbours<'a>(&self, sources: &'a [Reference]) -> Vec<&'a Reference> {
        let domain = self.name.split('/').next().unwrap_or_default();
        let mut found: Vec<&Reference> = Vec::new();
        for source in sources.iter().rev() {
            let again = source.path() == self.path || found.iter().any(|known| known.path() == source.path());
            if source.domain() == domain && !again && found.len() < NEIGHBOURS {
                found.push(source);
            }
        }
        found
    }

    /// Puts a blob into the repository. `sources` are repositories that may have it, those known longest first; `open` gives its
    /// bytes, from the first on, and is called for each try. An upload that breaks off goes on where it ended, if the
    /// registry still has what came.
    ///
    /// # Errors
    /// The registry's, after some tries.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        sources: &[Reference],
        open: &(dyn Fn() -> Body + Sync),
    ) -> Result<Pushed, Error> {
        if self.has_blob(&descriptor.digest).await? {
            return Ok(Pushed::Existed);
        }
        let from = self.neighbours(sources);
        Upload { remote: self, endpoint: self.target()?, descriptor, from, open }.run().await
    }

    /// Puts a blob into the repository that [`Remote::spare_blob`] has not found anywhere: nothing is asked again. Otherwise
    /// as [`Remote::push_blob`].
    ///
    /// # Errors
    /// The registry's, after some tries.
    pub async fn send_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Body + Sync),
    ) -> Result<Pushed, Error> {
        Upload { remote: self, endpoint: self.target()?, descriptor, from: Vec::new(), open }.run().await
    }

    /// Puts a manifest or index under `target`, a tag or its digest. What it refers to must be there.
    ///
    /// # Errors
    /// The registry's, after some tries.
    pub async fn push_manifest(&self, target: &str, media_type: &str, content: &Bytes) -> Result<(), Error> {
        let endpoint = self.target()?;
        let url = self.url(endpoint, &format!("manifests/{target}"))?;
        let kind = HeaderValue::from_str(media_type).map_err(|_| Error::Answer {
            url: shown(&url),
            problem: format!("{media_type:?} is no media type"),
        })?;
        let body = || Body::from(content.clone());
        retry(async || {
            let mut call = Call::new(Method::PUT, url.clone()).header(header::CONTENT_TYPE, kind.clone());
            call.body = Some(&body);
            let response = self.send(endpoint, &call, true).await?;
            if response.status().is_success() {
                return Ok(());
            }
            Err(refuse("PUT", &self.shown(target), response).await)
        })
        .await
    }
}
