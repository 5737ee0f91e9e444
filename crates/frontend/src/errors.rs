//! From errors of a build to what a client is told.

use kiln_engine::{SolveCause, SolveError};
use kiln_llb::Graph;
use kiln_oci::Digest;
use kiln_ops::{Kiln, OpError};
use kiln_proto::{
    errdefs::{self, ContentCache, FileAction, solve::Subject},
    pb,
    status::{Detail, WireError},
};
use prost::Message as _;
use tonic::Code;

use crate::Results;

/// The largest op that is told along with its failure, in bytes: an error has to fit into a trailer.
const MAX_OP: usize = 1 << 20;

/// The error of a failed vertex with all that a client shows of it: the vertex, the exit code, and the lines that it came from
/// according to `graph`. Of a build within the build, what is told of its failed vertex comes first. The trees that the vertex began
/// with, and what had become of them, are kept in `results`.
#[must_use]
pub fn solve_error(error: &SolveError<Kiln>, graph: &Graph, results: &Results) -> WireError {
    let mut wire = match error.op_error() {
        Some(OpError::Build { error, graph }) => solve_error(error, graph, results),
        _ => without_place(error),
    };
    let Some(digest) = &error.vertex else { return wire };
    wire = wire.with(Detail::Vertex(digest.to_string()));
    for location in blamed(graph, digest) {
        let info = usize::try_from(location.source_index).ok().and_then(|i| graph.sources().get(i)).cloned();
        if info.is_some() {
            wire = wire.with(Detail::Source(errdefs::Source { info, ranges: location.ranges.to_vec() }));
        }
    }
    match error.op_error() {
        // The trees of the build within are what there is to look into.
        Some(OpError::Build { .. }) => wire,
        _ => wire.with(Detail::Solve(Box::new(failed(error, graph, digest, results)))),
    }
}

/// What a debugger needs to look into a failure.
fn failed(error: &SolveError<Kiln>, graph: &Graph, digest: &Digest, results: &Results) -> errdefs::Solve {
    let vertex = graph.vertices().iter().find(|vertex| vertex.digest == *digest);
    let op = vertex.map(|vertex| vertex.op.clone()).filter(|op| op.encoded_len() <= MAX_OP);
    let description = vertex.map(|vertex| vertex.metadata.description.to_texts()).unwrap_or_default();
    let index = |index: usize| i64::try_from(index).unwrap_or(i64::MAX);
    let (inputs, mounts, subject) = match &*error.cause {
        SolveCause::Exec { error, inputs, mounts } => {
            let action = error.file_action().map(|action| FileAction { index: index(action) });
            (results.keep(inputs), results.keep(mounts), action.map(Subject::File))
        }
        SolveCause::Input { input, result, .. } => {
            let subject = Subject::Cache(ContentCache { index: index(*input) });
            (results.keep(&[Some(result.clone())]), Vec::new(), Some(subject))
        }
        _ => (Vec::new(), Vec::new(), None),
    };
    errdefs::Solve { input_ids: inputs, mount_ids: mounts, op, subject, description }
}

fn without_place(error: &SolveError<Kiln>) -> WireError {
    let code = match &*error.cause {
        SolveCause::Closed => Code::Cancelled,
        SolveCause::Graph(_) => Code::InvalidArgument,
        _ => Code::Unknown,
    };
    let wire = WireError::new(code, error.to_string());
    match error.op_error().and_then(OpError::exit_code) {
        Some(exit) => wire.with(Detail::Exit(exit)),
        None => wire,
    }
}

/// Any error as its message.
#[must_use]
pub fn wire_error(error: impl std::fmt::Display) -> WireError {
    WireError::new(Code::Unknown, error.to_string())
}

/// The lines of a vertex or, where it has none of its own, of the first that needs it: a folder that cannot be had is asked for by
/// the instruction that copies from it.
fn blamed<'a>(graph: &'a Graph, digest: &Digest) -> &'a [pb::Location] {
    let mut needing: Vec<&Digest> = Vec::new();
    for vertex in graph.vertices() {
        let needs =
            vertex.digest == *digest || vertex.inputs.iter().any(|input| needing.contains(&&input.vertex));
        if needs && !vertex.locations.locations.is_empty() {
            return &vertex.locations.locations;
        }
        if needs {
            needing.push(&vertex.digest);
        }
    }
    &[]
}
