//! Pushing blobs and manifests.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use kiln_oci::{Descriptor, Digest, Reference};
use reqwest::{Body, Response, Url};

use crate::{
    Error, Remote,
    config::Endpoint,
    retry::retry,
    transport::{Call, refuse, shown},
};

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

    /// Puts a blob into the repository. `sources` are repositories that may have it on the same registry; `open` gives its
    /// bytes, and is called for each try.
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
        let domain = self.name.split('/').next().unwrap_or_default();
        let from = sources.iter().find(|s| s.domain() == domain && s.path() != self.path);
        retry(async || self.upload(descriptor, from, open).await).await
    }

    async fn upload(
        &self,
        descriptor: &Descriptor,
        from: Option<&Reference>,
        open: &(dyn Fn() -> Body + Sync),
    ) -> Result<Pushed, Error> {
        let endpoint = self.target()?;
        let reference = self.shown(descriptor.digest.as_str());
        let mut url = self.url(endpoint, "blobs/uploads/")?;
        if let Some(from) = from {
            url.query_pairs_mut()
                .append_pair("mount", descriptor.digest.as_str())
                .append_pair("from", from.path());
        }
        let call = Call::new(Method::POST, url).header(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = self.send(endpoint, &call, true).await?;
        match response.status() {
            StatusCode::CREATED => return Ok(Pushed::Mounted),
            StatusCode::ACCEPTED => {}
            _ => return Err(refuse("POST", &reference, response).await),
        }
        let mut url = location(&response)?;
        url.query_pairs_mut().append_pair("digest", descriptor.digest.as_str());
        let mut call = Call::new(Method::PUT, url)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .header(header::CONTENT_LENGTH, descriptor.size.into());
        call.body = Some(open);
        let response = self.send(endpoint, &call, true).await?;
        if response.status().is_success() {
            return Ok(Pushed::Sent);
        }
        Err(refuse("PUT", &reference, response).await)
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

/// Where an upload goes on: absolute, or relative to what was asked.
fn location(response: &Response) -> Result<Url, Error> {
    let bad = |problem: &str| Error::Answer { url: shown(response.url()), problem: problem.to_owned() };
    let text = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
    let text = text.ok_or_else(|| bad("the registry does not say where to upload to"))?;
    response.url().join(text).map_err(|_| bad("the registry names no valid place to upload to"))
}
