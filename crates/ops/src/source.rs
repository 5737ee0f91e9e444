//! The source op.

use std::{collections::HashMap, sync::Arc};

use kiln_engine::{CacheDigest, CacheMap, MapsLeft, OpContext};
use kiln_oci::Digest;
use kiln_proto::pb;
use kiln_source::Source;

use crate::{Host, Kiln, Material, OpError, Output};

/// Brings files from outside.
#[derive(Debug)]
pub struct SourceOp {
    pub(crate) op: pb::SourceOp,
    pub(crate) platform: Option<pb::Platform>,
    pub(crate) source: Source,
    pub(crate) host: Arc<Host>,
}

impl SourceOp {
    pub(crate) async fn cache_map(
        &self,
        cx: &OpContext<Kiln>,
        index: usize,
    ) -> Result<(CacheMap<Kiln>, MapsLeft), OpError> {
        let key = self.source.key(&self.host.source_context(cx), index).await?;
        let digest = Digest::sha256(format!("buildkit.source.v0:{}", key.key));
        let digest = match key.key.starts_with("session:") {
            true => CacheDigest::Random(digest),
            false => CacheDigest::Fixed(digest),
        };
        let mut map = CacheMap::new(digest, 0);
        if !key.blobs.is_empty() {
            map.opts = Some(Arc::new(key.blobs.into_iter().collect::<HashMap<_, _>>()));
        }
        map.materials.push(Material {
            source: self.op.clone(),
            platform: self.platform.clone(),
            pin: key.pin,
        });
        Ok((map, if key.last { MapsLeft::None } else { MapsLeft::Some }))
    }

    pub(crate) async fn exec(&self, cx: &OpContext<Kiln>) -> Result<Vec<Output>, OpError> {
        let tree = self.source.snapshot(&self.host.source_context(cx)).await?;
        if let Some(tree) = &tree {
            // The tree of a local folder is brought up to date under the id that it had.
            self.host.hashes.forget(tree.id());
        }
        Ok(vec![Output(tree)])
    }
}
