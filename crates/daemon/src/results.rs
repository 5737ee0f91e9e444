//! How the engine's results are kept by the worker's cache.

use std::sync::Arc;

use futures::future::BoxFuture;
use kiln_engine::{OpContext, RecordId, StoreError};
use kiln_ops::{Kiln, Output};
use kiln_worker::{CacheResults, RefId, Worker};

/// The id of the empty tree, which needs no ref.
const EMPTY: &str = "empty";

/// Results as refs of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Results(pub(crate) Worker);

impl CacheResults<Kiln> for Results {
    fn id(&self, output: &Output) -> Option<String> {
        Some(output.tree().map_or_else(|| EMPTY.to_owned(), |tree| tree.id().to_string()))
    }

    fn exists(&self, id: &str) -> bool {
        id == EMPTY || RefId::parse(id).is_some_and(|id| self.0.exists(&id).unwrap_or(false))
    }

    fn load<'a>(
        &'a self,
        cx: &'a OpContext<Kiln>,
        id: &'a RecordId,
    ) -> BoxFuture<'a, Result<Output, StoreError>> {
        Box::pin(async move {
            if &**id == EMPTY {
                return Ok(Output(None));
            }
            let gone = || StoreError::Gone(id.clone());
            let parsed = RefId::parse(id).ok_or_else(gone)?;
            let tree = self.0.get(&parsed).map_err(|error| match error.is_miss() {
                true => gone(),
                false => StoreError::Failed(Box::new(error)),
            })?;
            if tree.is_lazy() {
                let providers = kiln_ops::providers_for(cx);
                let here =
                    tree.is_available(&*providers).map_err(|error| StoreError::Failed(Box::new(error)))?;
                if !here {
                    return Err(gone());
                }
            }
            Ok(Output(Some(tree)))
        })
    }
}

/// The cache of the engine on `worker`.
pub(crate) fn cache(worker: &Worker) -> Arc<kiln_worker::EngineCache<Results>> {
    Arc::new(kiln_worker::EngineCache::new(worker.clone(), Results(worker.clone())))
}
