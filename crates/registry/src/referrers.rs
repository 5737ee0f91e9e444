//! What refers to a manifest: signatures and the like.
//!
//! Registries that know no referrers keep the same list as an index under a tag made of the digest (`sha256-<hex>`); one that has
//! neither has no referrers.

use http::{HeaderValue, Method, StatusCode, header};
use kiln_oci::{Descriptor, Digest, Index, media_type};

use crate::{
    Error, Remote,
    config::Endpoint,
    remote::document,
    transport::{Call, refuse},
};

impl Remote {
    /// The descriptors of the manifests that refer to `digest`; each names its artifact type.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Answer`] for a list that is none, and whatever the network does.
    pub async fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, Error> {
        self.try_endpoints(async |endpoint| self.referrers_at(&endpoint, digest).await).await
    }

    async fn referrers_at(&self, endpoint: &Endpoint, digest: &Digest) -> Result<Vec<Descriptor>, Error> {
        let url = self.url(endpoint, &format!("referrers/{digest}"))?;
        let accept = HeaderValue::from_static(media_type::OCI_INDEX);
        let call = Call::new(Method::GET, url).header(header::ACCEPT, accept);
        let shown = self.shown(digest.as_str());
        let response = self.send(endpoint, &call, false).await?;
        let content = match response.status() {
            status if status.is_success() => document(&call, response, &shown).await?,
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => {
                let tag = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
                match self.get_manifest(endpoint, &tag).await {
                    Ok((_, content)) => content,
                    Err(error) if error.is_not_found() => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                }
            }
            _ => return Err(refuse("GET", &shown, response).await),
        };
        let index = Index::decode(&content);
        index
            .map(|index| index.manifests)
            .map_err(|e| Error::Answer { url: call.shown_url(), problem: e.to_string() })
    }
}
