//! One repository: resolving references and reading blobs.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, Method, StatusCode, header};
use kiln_oci::{Descriptor, Digest, Hasher, Reference, media_type};
use reqwest::{Response, Url};

use crate::{
    Auth, Error, Registries,
    config::Endpoint,
    retry::{delay, retry},
    transport::{Call, refuse, shown},
};

/// The largest manifest or index that is read, in bytes.
const MAX_MANIFEST: u64 = 8 << 20;

/// Header by which registries tell a manifest's digest.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A repository as one build sees it: its servers, and the build's credentials.
#[derive(Clone, Debug)]
pub struct Remote {
    pub(crate) registries: Arc<Registries>,
    /// As users write it, for errors.
    pub(crate) name: String,
    /// Path on its own registry, as in `library/busybox`.
    pub(crate) path: String,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) auth: Auth,
}

/// What a tag or digest stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Of the manifest or index.
    pub descriptor: Descriptor,
    /// Its bytes, when the registry sent them anyway.
    pub content: Option<Bytes>,
}

/// A blob's bytes in order. Whoever reads them verifies the digest; the length is checked here.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

impl Remote {
    pub(crate) fn new(
        registries: Arc<Registries>,
        reference: &Reference,
        endpoints: Vec<Endpoint>,
        auth: Auth,
    ) -> Self {
        Self { registries, name: reference.name(), path: reference.path().to_owned(), endpoints, auth }
    }

    /// The repository, as users write it and without a tag.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same repository, with other credentials.
    #[must_use]
    pub fn with_auth(&self, auth: Auth) -> Self {
        Self { auth, ..self.clone() }
    }

    /// The repository's path on a server: a mirror may have it below a folder of its own.
    pub(crate) fn repository(&self, endpoint: &Endpoint) -> String {
        format!("{}{}", endpoint.prefix.strip_prefix("/v2/").unwrap_or_default(), self.path)
    }

    pub(crate) fn url(&self, endpoint: &Endpoint, rest: &str) -> Result<Url, Error> {
        let text = format!("{}://{}{}{}/{rest}", endpoint.scheme, endpoint.host, endpoint.prefix, self.path);
        Url::parse(&text).map_err(|e| Error::Answer { url: text, problem: e.to_string() })
    }

    /// Asks each server in turn. A mirror that fails in any way is passed over; of the others a "not found" is.
    pub(crate) async fn try_endpoints<T, F, Fut>(&self, ask: F) -> Result<T, Error>
    where
        F: Fn(Endpoint) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut last = None;
        for endpoint in &self.endpoints {
            // A mirror that is down should not cost the whole patience: the registry itself comes after it.
            let answer = if endpoint.mirror {
                ask(endpoint.clone()).await
            } else {
                retry(|| ask(endpoint.clone())).await
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) if endpoint.mirror => {
                    tracing::debug!(mirror = endpoint.host, %error, "passing over a mirror");
                    if last.is_none() && !error.is_not_found() {
                        last = Some(error);
                    }
                }
                // What the registry itself says is the truth, unless nobody can reach it and a mirror said more.
                Err(error @ Error::Http { .. }) => return Err(last.unwrap_or(error)),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::NotFound { reference: self.name.clone() }))
    }

    /// The descriptor of `target`, a tag or a digest.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], and whatever the network does.
    pub async fn resolve(&self, target: &str) -> Result<Resolved, Error> {
        self.try_endpoints(async |endpoint| self.resolve_at(&endpoint, target).await).await
    }

    async fn resolve_at(&self, endpoint: &Endpoint, target: &str) -> Result<Resolved, Error> {
        let url = self.url(endpoint, &format!("manifests/{target}"))?;
        let call = Call::new(Method::HEAD, url.clone()).header(header::ACCEPT, accept());
        let response = self.send(endpoint, &call, false).await?;
        if response.status().is_success()
            && let Some(descriptor) = described(&response)
        {
            return Ok(Resolved { descriptor, content: None });
        }
        if !response.status().is_success() && response.status() != StatusCode::METHOD_NOT_ALLOWED {
            return Err(refuse("HEAD", &self.shown(target), response).await);
        }
        let (media_type, content) = self.get_manifest(endpoint, target).await?;
        let digest = Digest::sha256(&content);
        let descriptor = Descriptor::new(media_type, digest, content.len() as u64);
        Ok(Resolved { descriptor, content: Some(content) })
    }

    /// The bytes of a manifest or index, verified.
    ///
    /// # Errors
    /// [`Error::Digest`] when they are not what the descriptor promises.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let digest = &descriptor.digest;
        self.try_endpoints(async |endpoint| {
            let (_, content) = self.get_manifest(&endpoint, digest.as_str()).await?;
            let mut hasher = Hasher::new(digest.algorithm());
            hasher.update(&content);
            let got = hasher.finish();
            if got == *digest {
                return Ok(content);
            }
            Err(Error::Digest { reference: self.shown(digest.as_str()), expected: digest.clone(), got })
        })
        .await
    }

    pub(crate) async fn get_manifest(
        &self,
        endpoint: &Endpoint,
        target: &str,
    ) -> Result<(String, Bytes), Error> {
        let url = self.url(endpoint, &format!("manifests/{target}"))?;
        let call = Call::new(Method::GET, url).header(header::ACCEPT, accept());
        let response = self.send(endpoint, &call, false).await?;
        if !response.status().is_success() {
            return Err(refuse("GET", &self.shown(target), response).await);
        }
        let media_type = content_type(&response);
        Ok((media_type, document(&call, response, &self.shown(target)).await?))
    }

    /// The bytes of a blob from `offset` on. Connections that break are resumed.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`] at once; the network's, and [`Error::Size`], in the stream.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream, Error> {
        let state =
            Reading { remote: self.clone(), descriptor: descriptor.clone(), offset, failures: 0, open: None };
        let state = state.open().await?;
        Ok(futures::stream::try_unfold(state, Reading::next).boxed())
    }

    /// The size of a blob in bytes, for one that no manifest describes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::Answer`] when the registry does not tell.
    pub async fn blob_size(&self, digest: &Digest) -> Result<u64, Error> {
        self.try_endpoints(async |endpoint| {
            let url = self.url(&endpoint, &format!("blobs/{digest}"))?;
            let call = Call::new(Method::HEAD, url);
            let response = self.send(&endpoint, &call, false).await?;
            if !response.status().is_success() {
                return Err(refuse("HEAD", &self.shown(digest.as_str()), response).await);
            }
            let length = response.headers().get(header::CONTENT_LENGTH);
            let length = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
            length.ok_or_else(|| Error::Answer { url: call.shown_url(), problem: "no Content-Length".into() })
        })
        .await
    }

    async fn open_blob(&self, endpoint: &Endpoint, digest: &Digest, offset: u64) -> Result<Response, Error> {
        let url = self.url(endpoint, &format!("blobs/{digest}"))?;
        let mut call = Call::new(Method::GET, url);
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            call = call.header(header::RANGE, range.unwrap_or(HeaderValue::from_static("bytes=0-")));
        }
        let response = self.send(endpoint, &call, false).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refuse("GET", &self.shown(digest.as_str()), response).await)
    }

    /// `name:tag` or `name@digest`.
    pub(crate) fn shown(&self, target: &str) -> String {
        let separator = if target.contains(':') { '@' } else { ':' };
        format!("{}{separator}{target}", self.name)
    }
}

/// The body of an answer, if it is not too large for a manifest.
pub(crate) async fn document(call: &Call<'_>, mut response: Response, shown: &str) -> Result<Bytes, Error> {
    let failed = |source| Error::Http { url: call.shown_url(), source };
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        content.extend_from_slice(&chunk);
        if content.len() as u64 > MAX_MANIFEST {
            let got = content.len() as u64;
            return Err(Error::Size { reference: shown.to_owned(), expected: MAX_MANIFEST, got });
        }
    }
    Ok(content.into())
}

/// A blob that is being read.
struct Reading {
    remote: Remote,
    descriptor: Descriptor,
    offset: u64,
    /// Breaks since the last byte that came.
    failures: u32,
    open: Option<Response>,
}

impl Reading {
    async fn open(mut self) -> Result<Self, Error> {
        let (remote, digest, offset) = (&self.remote, &self.descriptor.digest, self.offset);
        let mut response =
            remote.try_endpoints(async |endpoint| remote.open_blob(&endpoint, digest, offset).await).await?;
        if self.offset > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            // This server knows no ranges: pass over what is here already.
            let failed = |source| Error::Http { url: remote.shown(digest.as_str()), source };
            let mut skip = self.offset;
            let mut rest = Bytes::new();
            while skip > 0 {
                let Some(mut chunk) = response.chunk().await.map_err(failed)? else { break };
                let drop = chunk.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                rest = chunk.split_off(drop);
                skip -= drop as u64;
            }
            let body = futures::stream::iter([Ok::<_, reqwest::Error>(rest)]).chain(response.bytes_stream());
            response = http::Response::new(reqwest::Body::wrap_stream(body)).into();
        }
        self.open = Some(response);
        Ok(self)
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        loop {
            let Some(response) = &mut self.open else {
                self = self.open().await?;
                continue;
            };
            let url = shown(response.url());
            let error = match response.chunk().await {
                Ok(Some(chunk)) => {
                    self.offset += chunk.len() as u64;
                    self.failures = 0;
                    self.check_size(self.offset > self.descriptor.size)?;
                    return Ok(Some((chunk, self)));
                }
                Ok(None) if self.offset >= self.descriptor.size => return Ok(None),
                Ok(None) => Error::Size {
                    reference: self.remote.shown(self.descriptor.digest.as_str()),
                    expected: self.descriptor.size,
                    got: self.offset,
                },
                Err(source) => Error::Http { url, source },
            };
            self.failures += 1;
            self.open = None;
            let Some(delay) = delay(self.failures, &error) else { return Err(error) };
            tracing::warn!(%error, offset = self.offset, ?delay, "resuming a blob");
            tokio::time::sleep(delay).await;
        }
    }

    fn check_size(&self, too_long: bool) -> Result<(), Error> {
        let reference = || self.remote.shown(self.descriptor.digest.as_str());
        if too_long {
            return Err(Error::Size {
                reference: reference(),
                expected: self.descriptor.size,
                got: self.offset,
            });
        }
        Ok(())
    }
}

fn accept() -> HeaderValue {
    // Each by name, then anything: some registries answer only to the names.
    HeaderValue::from_static(concat!(
        "application/vnd.docker.distribution.manifest.v2+json, ",
        "application/vnd.docker.distribution.manifest.list.v2+json, ",
        "application/vnd.oci.image.manifest.v1+json, ",
        "application/vnd.oci.image.index.v1+json, */*"
    ))
}

fn content_type(response: &Response) -> String {
    let value =
        response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let value = value.split(';').next().unwrap_or_default().trim();
    if value.is_empty() { media_type::OCI_MANIFEST.to_owned() } else { value.to_owned() }
}

/// A manifest's descriptor from the headers of an answer to HEAD, when they tell all of it.
fn described(response: &Response) -> Option<Descriptor> {
    let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    let digest = Digest::parse(text(CONTENT_DIGEST)?).ok()?;
    let size = text(header::CONTENT_LENGTH.as_str())?.parse().ok()?;
    Some(Descriptor::new(content_type(response), digest, size))
}
