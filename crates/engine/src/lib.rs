//! The solver: vertices, cache keys, jobs and progress. Generic over the op and its result, and without I/O of its own.
//!
//! A caller opens a [`Job`] on an [`Engine`], hands it a [`Graph`] and asks for an [`Edge`]. For each edge the engine
//! looks for a result by three ways, from cheap to dear, each tried only when the one before gave no match:
//!
//! ```text
//!   Unprobed ──▶ Keyed(Definition) ──▶ Keyed(Content) ──▶ Loading | Running | Joined ──▶ Done
//!                the op's digest and   the content of     a record of a  no record:     the same key is
//!                its inputs' keys      inputs is hashed   found key      the op runs    at work already
//! ```
//!
//! * The keys are a graph, described in [`KeyId`]; a [`CacheStore`] keeps it between builds.
//! * A [`Domain`] names the op and its types; an [`Op`] gives its cache maps and does its work.
//! * Vertices with equal digests are one vertex over all jobs, edges that reach the same key one execution. A vertex
//!   that ignores the cache or has a meaning of its own, and all that follow from it, are kept apart from the same
//!   vertices that do not.
//! * Work stops when the last job that wants it goes: dropping a build's future withdraws its request, dropping a
//!   [`Job`] lets its vertices go.
//! * All tables belong to one owner task. What it decides for an edge is a pure function; everything that takes time
//!   runs in tasks that report back to it.

mod arena;
mod commit;
mod context;
mod core;
mod decision;
mod domain;
mod driver;
mod engine;
mod error;
mod export;
#[cfg(test)]
mod fuzz;
mod graph;
mod key;
mod memory;
mod progress;
mod step;
mod store;
mod sync;
#[cfg(test)]
mod tests;

pub use context::{JobGroup, OpContext, VertexView};
pub use decision::{Decision, EdgeTrace, InputTrace, Outcome, Reason, Way};
pub use domain::{CacheMap, Domain, ExecError, InputMap, MapsLeft, Op, Permit};
pub use engine::{CachedResult, Engine, Held, Job, JobSerial};
pub use error::{SolveCause, SolveError};
pub use export::{CacheExportGraph, ExportLink, ExportRecord, RecordRef};
pub use graph::{Edge, Graph, GraphError, Vertex, VertexOptions};
pub use key::{CacheDigest, Key, KeyDep, KeyId, KeyKind, Link};
pub use memory::MemoryStore;
pub use progress::{
    Event, LogEvent, Part, ProgressSink, Resumed, StatusEvent, VertexEvent, VertexProgress, WarningEvent,
};
pub use store::{Backlink, CacheStore, Change, Loaded, Record, RecordId, StoreError};
