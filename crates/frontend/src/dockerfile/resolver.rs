//! What the converter may ask, answered by the bridge.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kiln_dockerfile::convert::{BoxError, ImageRequest, ResolvedImage, Resolver, SourceTime};
use kiln_oci::Time;
use kiln_proto::{gateway, pb};
use kiln_source::commit_time;
use tonic::Code;

use crate::{Bridge, BuildRef, ImageError};

/// A bridge as the converter knows it.
pub(super) struct BridgeResolver<'a> {
    bridge: &'a Arc<Bridge>,
    inputs: BTreeMap<String, pb::Definition>,
}

impl<'a> BridgeResolver<'a> {
    pub(super) fn new(bridge: &'a Arc<Bridge>, inputs: BTreeMap<String, pb::Definition>) -> Self {
        Self { bridge, inputs }
    }
}

impl Resolver for BridgeResolver<'_> {
    type Ref = Option<Arc<BuildRef>>;

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, BoxError> {
        let layout = request.oci_layout.map(|store| (store.session_id, store.store_id));
        let found = self
            .bridge
            .resolve_image(&request.reference, request.platform.as_ref(), layout, &request.log_name, &[])
            .await;
        let found = match found {
            Ok(found) => found,
            Err(ImageError::Replaced(replaced)) => return Err(replaced.into()),
            Err(ImageError::Other(error)) => return Err(error.into()),
        };
        Ok(ResolvedImage {
            reference: found.reference,
            digest: Some(found.image.root.digest.clone()),
            config: found.image.config.clone(),
        })
    }

    async fn solve(&self, definition: pb::Definition) -> Result<Self::Ref, BoxError> {
        Ok(self.bridge.solve_definition(definition, &[], &[]).await?)
    }

    async fn read_file(
        &self,
        tree: &Self::Ref,
        path: &str,
        limit: Option<u64>,
    ) -> Result<Option<Bytes>, BoxError> {
        match self.bridge.read_file(tree.as_ref(), path, 0, limit.unwrap_or(0)).await {
            Ok(data) => Ok(Some(data)),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, BoxError> {
        Ok(self.inputs.clone())
    }

    async fn source_time(&self, source: pb::SourceOp, log_name: String) -> Result<SourceTime, BoxError> {
        let request = gateway::ResolveSourceMetaRequest {
            source: Some(source),
            log_name,
            git: Some(gateway::ResolveSourceGitRequest { return_object: true }),
            ..Default::default()
        };
        let answer = self.bridge.resolve_source(request).await?;
        let commit = answer.git.and_then(|git| commit_time(&git.commit_object));
        let modified = answer.http.and_then(|http| http.last_modified).map(|time| time.seconds);
        Ok(SourceTime { time: commit.or(modified).map(Time::from_unix) })
    }
}
