//! The build op: a definition that an input holds is built in its turn.

use std::{io::Read as _, sync::Arc};

use kiln_engine::{CacheMap, OpContext};
use kiln_proto::pb;
use prost::Message as _;

use crate::{Gate, Host, Kiln, OpError, Output, load};

/// The input that holds the definition.
const DEFINITION_INPUT: &str = "buildkit.llb.definition";
/// The attribute that names its file, and the name without it.
const FILENAME: &str = "buildkit.llb.definition.filename";
const DEFAULT_FILENAME: &str = "buildkit.llb.definition";
/// The builder that means "this one".
const LLB_BUILDER: i64 = -1;
/// The largest definition that is read, in bytes.
const MAX_DEFINITION: u64 = 64 << 20;

/// Builds a definition that an input holds.
#[derive(Debug)]
pub struct BuildOp {
    pub(crate) op: pb::BuildOp,
    pub(crate) inputs: usize,
    pub(crate) host: Arc<Host>,
}

impl BuildOp {
    pub(crate) fn cache_map(&self) -> Result<CacheMap<Kiln>, OpError> {
        Ok(CacheMap::new(crate::canonical::build(&self.op)?, self.inputs))
    }

    pub(crate) async fn exec(
        &self,
        cx: &OpContext<Kiln>,
        inputs: Vec<Output>,
    ) -> Result<Vec<Output>, OpError> {
        let invalid = |problem: String| OpError::Invalid(problem);
        if self.op.builder != LLB_BUILDER {
            return Err(OpError::Unsupported("a build op with a builder of its own".into()));
        }
        let input = self.op.inputs.get(DEFINITION_INPUT).and_then(|i| usize::try_from(i.input).ok());
        let holder = input
            .and_then(|i| inputs.get(i))
            .ok_or_else(|| invalid(format!("the build op names no input as its {DEFINITION_INPUT:?}")))?;
        let name = self.op.attrs.get(FILENAME).map_or(DEFAULT_FILENAME, String::as_str).to_owned();
        let Some(tree) = holder.unpack(cx).await? else {
            return Err(invalid(format!("{name}: no such file in an empty tree")));
        };
        let bytes = tokio::task::spawn_blocking(move || {
            let io = |source| OpError::Io { what: format!("reading {name}"), source };
            let file = tree.open()?.open_file(&name).map_err(|source| OpError::File { action: 0, source })?;
            let mut bytes = Vec::new();
            file.take(MAX_DEFINITION + 1).read_to_end(&mut bytes).map_err(io)?;
            if bytes.len() as u64 > MAX_DEFINITION {
                return Err(OpError::Invalid(format!("{name}: more than {MAX_DEFINITION} bytes")));
            }
            Ok(bytes)
        });
        let mut definition = pb::Definition::decode(bytes.await??.as_slice())
            .map_err(|e| invalid(format!("the build op's input holds no definition: {e}")))?;
        // The result goes to all of them.
        let mut asked = Vec::new();
        for gate in gates(cx) {
            definition = gate.admit(definition).await.map_err(OpError::Refused)?;
            asked.push(gate);
        }
        let decoded = Arc::new(kiln_llb::Graph::decode(&definition).map_err(|e| invalid(e.to_string()))?);
        // Jobs share the op only if they have the same (see `Entitlements::meaning`).
        let allowed = cx.jobs().into_iter().next().map(|job| job.entitlements).unwrap_or_default();
        let (graph, edge) = load(&decoded, &self.host, &allowed).map_err(|e| invalid(e.to_string()))?;
        let built = cx.build(graph, edge).await;
        let result = built.map_err(|error| OpError::Build { error, graph: decoded })?;
        // Those that came since take what the others wanted, or nobody gets anything.
        for gate in gates(cx) {
            if asked.iter().any(|known| Arc::ptr_eq(known, &gate)) {
                continue;
            }
            if gate.admit(definition.clone()).await.map_err(OpError::Refused)? != definition {
                let problem = "a build with other source policies wants the result of this step too";
                return Err(OpError::Refused(problem.into()));
            }
            asked.push(gate);
        }
        Ok(vec![result.output])
    }
}

fn gates(cx: &OpContext<Kiln>) -> Vec<Arc<dyn Gate>> {
    cx.jobs().into_iter().filter_map(|job| job.gate).collect()
}
