//! From a frontend's result to exporters: trees with their layers, and progress of what is written.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use futures::future::try_join_all;
use kiln_engine::{Event, StatusEvent};
use kiln_exporter::{Attestation, Reporter, ResultPlatform, Source, Tree, WorkerRef};
use kiln_frontend::{Bridge, BuildRef, FrontendResult, Refs, Steps, wire_error};
use kiln_oci::Digest;
use kiln_proto::status::WireError;

async fn tree(built: Option<&Arc<BuildRef>>) -> Result<Tree, WireError> {
    let Some(built) = built else { return Ok(None) };
    let result = built.result().await?;
    let Some(tree) = result.output.tree() else { return Ok(None) };
    let providers = kiln_ops::providers_of(result);
    Ok(Some(Arc::new(WorkerRef::new(tree.clone(), providers))))
}

async fn named_tree(id: &str, built: Option<&Arc<BuildRef>>) -> Result<(String, Tree), WireError> {
    Ok((id.to_owned(), tree(built).await?))
}

/// The platforms of a result, which need not be built yet.
pub(crate) fn platforms(result: &FrontendResult) -> Result<Vec<ResultPlatform>, WireError> {
    let mut source = unbuilt(result);
    if let Refs::Map(many) = &result.refs {
        source.trees = many.keys().map(|id| (id.clone(), None)).collect();
    }
    source.platforms().map_err(wire_error)
}

fn unbuilt(result: &FrontendResult) -> Source {
    let metadata = result.metadata.iter().map(|(k, v)| (k.clone(), v.to_vec())).collect();
    Source { metadata, ..Source::default() }
}

/// Builds everything of a result, and makes it ready for exporters.
pub(crate) async fn source(bridge: &Arc<Bridge>, result: &FrontendResult) -> Result<Source, WireError> {
    let mut source = unbuilt(result);
    match &result.refs {
        Refs::Single(one) => source.single = tree(one.as_ref()).await?,
        Refs::Map(many) => {
            let all = many.iter().map(|(id, one)| named_tree(id, one.as_ref()));
            source.trees = try_join_all(all).await?.into_iter().collect();
        }
    }
    for (platform, all) in &result.attestations {
        for message in &all.attestation {
            let place = message.r#ref.as_ref().filter(|r| !r.id.is_empty());
            let tree = match place {
                Some(place) => tree(Some(&bridge.find(&place.id)?)).await?,
                None => None,
            };
            let attestation = Attestation::from_gateway(message, tree).map_err(wire_error)?;
            source.attestations.entry(platform.clone()).or_default().push(attestation);
        }
    }
    Ok(source)
}

/// Shows the steps of an export under the vertex that it is.
pub(crate) struct ExportProgress {
    steps: Steps,
    vertex: Digest,
    started: Mutex<HashMap<String, SystemTime>>,
}

impl ExportProgress {
    pub(crate) fn new(steps: Steps, vertex: Digest) -> Self {
        Self { steps, vertex, started: Mutex::default() }
    }

    fn tell(&self, step: &str, current: u64, total: u64, ended: bool) {
        let now = SystemTime::now();
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *started.entry(step.to_owned()).or_insert(now);
        drop(started);
        self.steps.tell(Event::Status(StatusEvent {
            vertex: self.vertex.clone(),
            id: step.into(),
            name: step.into(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            timestamp: now,
            started: Some(since),
            completed: ended.then_some(now),
        }));
    }
}

impl Reporter for ExportProgress {
    fn started(&self, step: &str) {
        self.tell(step, 0, 0, false);
    }

    fn moved(&self, step: &str, current: u64, total: u64) {
        self.tell(step, current, total, false);
    }

    fn ended(&self, step: &str, _error: Option<&str>) {
        self.tell(step, 0, 0, true);
    }
}

/// What exporters answered, of several the later ones' values.
pub(crate) fn merge(responses: Vec<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    responses.into_iter().flatten().collect()
}
