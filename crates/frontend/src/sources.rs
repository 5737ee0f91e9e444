//! What frontends and policies may know of sources before anything is built.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kiln_llb::source::Identifier;
use kiln_oci::{Digest, Platform, Reference};
use kiln_ops::Host;
use kiln_proto::{gateway, pb, status::WireError};
use kiln_session::Group;
use kiln_source::{
    Metadata,
    image::{self, ResolvedImage},
};
use tonic::Code;

use crate::{Steps, errors::wire_error, metadata};

/// An image whose config a frontend has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// Its name, with a tag.
    pub reference: Reference,
    /// The platform that it was taken for.
    pub platform: Platform,
    /// What the name stood for.
    pub digest: Digest,
    /// From an OCI layout of the client.
    pub local: bool,
}

/// Asks about the sources of one build.
#[derive(Debug)]
pub(crate) struct SourceReader {
    host: Arc<Host>,
    session: String,
    steps: Steps,
    images: Mutex<Vec<NamedImage>>,
}

impl SourceReader {
    /// For the build of the client `session`.
    pub(crate) fn new(host: Arc<Host>, session: String, steps: Steps) -> Self {
        Self { host, session, steps, images: Mutex::default() }
    }

    /// Whoever may answer for the build's client.
    pub(crate) fn group(&self) -> Group {
        Group::of(self.host.sessions.clone(), vec![self.session.clone()])
    }

    /// The images that were asked about, each once for a platform.
    pub(crate) fn images(&self) -> Vec<NamedImage> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The digest and config of an image, shown as the step `log_name` unless that is empty.
    pub(crate) async fn image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        layout: Option<(String, String)>,
        log_name: &str,
    ) -> Result<Arc<ResolvedImage>, WireError> {
        let reference = Reference::parse(reference)
            .map_err(|e| WireError::new(Code::InvalidArgument, format!("{reference}: {e}")))?
            .with_default_tag();
        let platform = platform.unwrap_or(&self.host.platform);
        let local = layout.is_some();
        let request = match layout {
            None => image::Request::registry(&reference, platform),
            Some((session, store)) => {
                let session = if session.is_empty() { self.session.clone() } else { session };
                image::Request::layout(&reference, platform, Some(session), store)
            }
        };
        let group = self.group();
        let work = self.host.sources.images().resolve(&request, &group);
        let resolved = if log_name.is_empty() { work.await } else { self.steps.run(log_name, work).await };
        let resolved = resolved.map_err(|error| {
            let code = if error.is_not_found() { Code::NotFound } else { Code::Unknown };
            WireError::new(code, error.to_string())
        })?;
        let (digest, platform) = (resolved.root.digest.clone(), platform.clone());
        let named = NamedImage { reference, platform, digest, local };
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if !images.contains(&named) {
            images.push(named);
        }
        drop(images);
        Ok(resolved)
    }

    /// What a source stands for now; `Unimplemented` for kinds of which nothing can be told yet.
    pub(crate) async fn metadata(
        &self,
        request: &gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse, WireError> {
        let invalid = |message: String| WireError::new(Code::InvalidArgument, message);
        let source = request.source.clone().ok_or_else(|| invalid("the request names no source".into()))?;
        let parsed =
            Identifier::parse(&source, request.platform.as_ref()).map_err(|e| invalid(e.to_string()))?;
        let image = match parsed {
            Identifier::Image(image) => {
                let platform = image.platform.as_ref();
                self.image(&image.reference.to_string(), platform, None, &request.log_name).await?
            }
            Identifier::OciLayout(layout) => {
                let store = layout.store.clone().unwrap_or_else(|| layout.reference.path().to_owned());
                let place = Some((layout.session.clone().unwrap_or_default(), store));
                let reference = layout.reference.to_string();
                self.image(&reference, layout.platform.as_ref(), place, &request.log_name).await?
            }
            Identifier::Local(_) => {
                return Ok(gateway::ResolveSourceMetaResponse { source: Some(source), ..Default::default() });
            }
            Identifier::Git(_) | Identifier::Http(_) => {
                let metadata = self.source_metadata(&source, request).await?;
                return Ok(metadata::answer(request, metadata));
            }
            _ => {
                let message = format!("metadata of {} is not supported yet", source.identifier);
                return Err(WireError::new(Code::Unimplemented, message));
            }
        };
        let attestation_chain = self.attestations(&source, request).await?;
        let no_config = request.image.as_ref().is_some_and(|i| i.no_config);
        let image = gateway::ResolveSourceImageResponse {
            digest: image.root.digest.to_string(),
            config: if no_config { Bytes::new() } else { image.config.clone() },
            attestation_chain,
        };
        Ok(gateway::ResolveSourceMetaResponse {
            source: Some(source),
            image: Some(image),
            ..Default::default()
        })
    }

    /// The attestations of an image, if they are asked for.
    async fn attestations(
        &self,
        source: &pb::SourceOp,
        request: &gateway::ResolveSourceMetaRequest,
    ) -> Result<Option<gateway::AttestationChain>, WireError> {
        let Some(wanted) = &request.image else { return Ok(None) };
        if !wanted.attestation_chain && wanted.resolve_attestations.is_empty() {
            return Ok(None);
        }
        let Ok(Identifier::Image(image)) = Identifier::parse(source, request.platform.as_ref()) else {
            let message = format!("attestations of {} cannot be asked for", source.identifier);
            return Err(WireError::new(Code::InvalidArgument, message));
        };
        let platform = image.platform.as_ref().unwrap_or(&self.host.platform);
        let asked = image::Request::registry(&image.reference, platform);
        let (images, group) = (self.host.sources.images(), self.group());
        let chain = images.attestations(&asked, &group, &wanted.resolve_attestations).await;
        Ok(chain.map_err(wire_error)?.map(metadata::of_chain))
    }

    /// What a git or web source stands for, shown as a step if the request gives it a name.
    async fn source_metadata(
        &self,
        source: &pb::SourceOp,
        request: &gateway::ResolveSourceMetaRequest,
    ) -> Result<Metadata, WireError> {
        let (wanted, group) = (metadata::wanted(request)?, self.group());
        let work = self.host.sources.metadata(source, &group, &wanted);
        let name = request.log_name.as_str();
        let found = if name.is_empty() { work.await } else { self.steps.run(name, work).await };
        let found = found.map_err(|error| WireError::new(Code::Unknown, error.to_string()))?;
        found.ok_or_else(|| {
            let message = format!("metadata of {} is not supported yet", source.identifier);
            WireError::new(Code::Unimplemented, message)
        })
    }
}

/// The message of a platform.
pub(crate) fn pb_platform(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}
