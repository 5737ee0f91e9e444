//! One blob on its way to a registry (OCI distribution specification, "Pushing blobs").
//!
//! ```text
//!   POST uploads/ ─▶ PUT place?digest=… all of it ─▶ done
//!                         │ breaks off
//!                         ▼
//!                    GET place: has the first n bytes ─▶ PATCH place the others ─▶ PUT place?digest=… ─▶ done
//!                         │ does not know                     │ breaks off: GET place, and so on
//!                         ▼
//!                    from the beginning
//! ```

use futures::StreamExt as _;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyDataStream;
use kiln_oci::{Descriptor, Digest, Reference};
use reqwest::{Body, Response, Url};

use crate::{
    Error, Pushed, Remote,
    config::Endpoint,
    retry::{delay, retry},
    transport::{Call, refuse, shown},
};

/// A blob that is to be sent.
pub(crate) struct Upload<'a> {
    pub(crate) remote: &'a Remote,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) descriptor: &'a Descriptor,
    /// Repositories on the same registry that may have it.
    pub(crate) from: Vec<&'a Reference>,
    /// Its bytes, from the first on.
    pub(crate) open: &'a (dyn Fn() -> Body + Sync),
}

/// An upload that the registry has begun.
struct Begun {
    place: Url,
    /// Bytes that the registry has.
    offset: u64,
}

impl Upload<'_> {
    pub(crate) async fn run(&self) -> Result<Pushed, Error> {
        let mut failures = 0;
        let Some(mut begun) = self.begin().await? else { return Ok(Pushed::Mounted) };
        loop {
            let error = match self.send(&mut begun).await {
                Ok(()) => return Ok(Pushed::Sent),
                // What a registry says against the rest of a blob is no word against the whole.
                Err(error) if error.is_transient() || begun.offset > 0 => error,
                Err(error) => return Err(error),
            };
            failures += 1;
            let Some(delay) = delay(failures, &error) else { return Err(error) };
            tracing::warn!(%error, ?delay, "resuming an upload");
            tokio::time::sleep(delay).await;
            let broken_off = if error.is_transient() { self.arrived(&begun).await } else { None };
            begun = match broken_off {
                Some(further) => {
                    if further.offset > begun.offset {
                        failures = 0;
                    }
                    further
                }
                None => match self.begin().await? {
                    Some(anew) => anew,
                    None => return Ok(Pushed::Mounted),
                },
            };
        }
    }

    fn reference(&self) -> String {
        self.remote.shown(self.descriptor.digest.as_str())
    }

    async fn begin(&self) -> Result<Option<Begun>, Error> {
        let digest = &self.descriptor.digest;
        match take(self.remote, self.endpoint, digest, &self.from).await? {
            Taken::Mounted => Ok(None),
            Taken::Not(Some(begun)) => Ok(Some(begun)),
            Taken::Not(None) => begin(self.remote, self.endpoint, digest, None).await,
        }
    }

    /// Sends what the registry does not have, and ends the upload.
    async fn send(&self, begun: &mut Begun) -> Result<(), Error> {
        let size = self.descriptor.size;
        if begun.offset == 0 {
            return self.finish(&begun.place, Some(self.open)).await;
        }
        if begun.offset < size {
            let skipped = begun.offset;
            let rest = move || skip((self.open)(), skipped);
            let range = HeaderValue::from_str(&format!("{skipped}-{}", size - 1));
            let range = range.unwrap_or(HeaderValue::from_static(""));
            let mut call = octets(Method::PATCH, begun.place.clone(), size - skipped);
            call = call.header(header::CONTENT_RANGE, range);
            call.body = Some(&rest);
            let response = self.remote.send(self.endpoint, &call, true).await?;
            if !response.status().is_success() {
                return Err(refuse("PATCH", &self.reference(), response).await);
            }
            *begun = Begun { place: location(&response)?, offset: size };
        }
        self.finish(&begun.place, None).await
    }

    /// Names the digest, with the whole blob or after it.
    async fn finish(&self, place: &Url, body: Option<&(dyn Fn() -> Body + Sync)>) -> Result<(), Error> {
        let mut url = place.clone();
        url.query_pairs_mut().append_pair("digest", self.descriptor.digest.as_str());
        let mut call = octets(Method::PUT, url, if body.is_some() { self.descriptor.size } else { 0 });
        call.body = body;
        let response = self.remote.send(self.endpoint, &call, true).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refuse("PUT", &self.reference(), response).await)
    }

    /// How much of an upload that broke off the registry has; `None` when that is nothing or it cannot tell.
    async fn arrived(&self, begun: &Begun) -> Option<Begun> {
        let call = Call::new(Method::GET, begun.place.clone());
        let response = self.remote.send(self.endpoint, &call, true).await.ok()?;
        if response.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let range = response.headers().get(header::RANGE)?.to_str().ok()?;
        let last: u64 = range.rsplit('-').next()?.parse().ok()?;
        // Registries show nothing and one byte alike.
        let offset = if last == 0 { return None } else { last + 1 };
        let place = location(&response).unwrap_or_else(|_| begun.place.clone());
        (offset <= self.descriptor.size).then_some(Begun { place, offset })
    }
}

/// Asks the registry to take a blob from one of other repositories, and gives up the upload that it begins when it does not.
pub(crate) async fn mount(
    remote: &Remote,
    endpoint: &Endpoint,
    digest: &Digest,
    from: &[&Reference],
) -> Result<bool, Error> {
    match take(remote, endpoint, digest, from).await? {
        Taken::Mounted => Ok(true),
        Taken::Not(begun) => {
            give_up(remote, endpoint, begun).await;
            Ok(false)
        }
    }
}

/// What a registry did that was asked to take a blob from its other repositories.
enum Taken {
    Mounted,
    /// It began an upload in its place, unless it refused even that.
    Not(Option<Begun>),
}

/// Asks the registry to take a blob from one repository after the other.
async fn take(
    remote: &Remote,
    endpoint: &Endpoint,
    digest: &Digest,
    from: &[&Reference],
) -> Result<Taken, Error> {
    let mut last = None;
    for from in from {
        match begin(remote, endpoint, digest, Some(from)).await {
            Ok(None) => {
                give_up(remote, endpoint, last).await;
                return Ok(Taken::Mounted);
            }
            Ok(Some(begun)) => give_up(remote, endpoint, last.replace(begun)).await,
            Err(error) if error.is_transient() => return Err(error),
            // One may push here and not read there.
            Err(error) => tracing::debug!(%error, %from, "a blob is not taken from another repository"),
        }
    }
    Ok(Taken::Not(last))
}

/// Gives up an upload. Registries forget them by themselves, in time.
async fn give_up(remote: &Remote, endpoint: &Endpoint, begun: Option<Begun>) {
    let Some(begun) = begun else { return };
    let _forgotten = remote.send(endpoint, &Call::new(Method::DELETE, begun.place), true).await;
}

/// Begins an upload; `None`: the registry has taken the blob from elsewhere.
async fn begin(
    remote: &Remote,
    endpoint: &Endpoint,
    digest: &Digest,
    from: Option<&Reference>,
) -> Result<Option<Begun>, Error> {
    let mut url = remote.url(endpoint, "blobs/uploads/")?;
    if let Some(from) = from {
        url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from.path());
    }
    retry(async || {
        let none = HeaderValue::from_static("0");
        let call = Call::new(Method::POST, url.clone()).header(header::CONTENT_LENGTH, none);
        let response = remote.send(endpoint, &call, true).await?;
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => Ok(Some(Begun { place: location(&response)?, offset: 0 })),
            _ => Err(refuse("POST", &remote.shown(digest.as_str()), response).await),
        }
    })
    .await
}

fn octets(method: Method, url: Url, length: u64) -> Call<'static> {
    Call::new(method, url)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
        .header(header::CONTENT_LENGTH, length.into())
}

/// A body without its first bytes.
fn skip(body: Body, mut bytes: u64) -> Body {
    let rest = BodyDataStream::new(body).map(move |chunk| {
        chunk.map(|mut chunk| {
            let skipped = chunk.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            bytes -= skipped as u64;
            chunk.split_off(skipped)
        })
    });
    Body::wrap_stream(rest)
}

/// Where an upload goes on: absolute, or relative to what was asked.
fn location(response: &Response) -> Result<Url, Error> {
    let bad = |problem: &str| Error::Answer { url: shown(response.url()), problem: problem.to_owned() };
    let text = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
    let text = text.ok_or_else(|| bad("the registry does not say where to upload to"))?;
    response.url().join(text).map_err(|_| bad("the registry names no valid place to upload to"))
}
