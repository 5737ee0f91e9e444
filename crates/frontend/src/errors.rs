//! From errors of a build to what a client is told.

use kiln_engine::{SolveCause, SolveError};
use kiln_llb::Graph;
use kiln_oci::Digest;
use kiln_ops::{Kiln, OpError};
use kiln_proto::{
    errdefs, pb,
    status::{Detail, WireError},
};
use tonic::Code;

/// The error of a failed vertex with all that a client shows of it: the vertex, the exit code, and the lines that it came from
/// according to `graph`. Of a build within the build, what is told of its failed vertex comes first.
#[must_use]
pub fn solve_error(error: &SolveError<Kiln>, graph: Option<&Graph>) -> WireError {
    let mut wire = match error.op_error() {
        Some(OpError::Build { error, graph }) => solve_error(error, Some(graph)),
        _ => without_place(error),
    };
    let Some(digest) = &error.vertex else { return wire };
    wire = wire.with(Detail::Vertex(digest.to_string()));
    let Some(graph) = graph else { return wire };
    for location in blamed(graph, digest) {
        let info = usize::try_from(location.source_index).ok().and_then(|i| graph.sources().get(i)).cloned();
        if info.is_some() {
            wire = wire.with(Detail::Source(errdefs::Source { info, ranges: location.ranges.clone() }));
        }
    }
    wire
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
        if needs && !vertex.locations.is_empty() {
            return &vertex.locations;
        }
        if needs {
            needing.push(&vertex.digest);
        }
    }
    &[]
}
