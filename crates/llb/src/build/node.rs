//! The graph under the states.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kiln_oci::Platform;
use smallvec::SmallVec;

use super::Constraints;
use super::exec::ExecNode;
use crate::caps;

/// One output of a node.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) node: Arc<Node>,
    pub(super) index: i64,
}

impl Output {
    /// A source or exec that was asked for on a platform passes it on.
    pub(super) fn platform(&self) -> Option<&Arc<Platform>> {
        match self.node.kind {
            Kind::Source { .. } | Kind::Exec(_) => self.node.constraints.platform.as_ref(),
            _ => None,
        }
    }
}

/// What a node takes: one output or two most of the time.
pub(super) type Inputs = SmallVec<[Output; 2]>;

/// An op to be. What it takes is in `inputs`; the kinds refer to these by position.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) inputs: Inputs,
    pub(super) constraints: Constraints,
}

#[derive(Debug)]
pub(super) enum Kind {
    Source {
        identifier: String,
        attrs: std::collections::BTreeMap<String, String>,
    },
    Exec(ExecNode),
    /// `base` is the position of the base among the inputs; action inputs are positions too, shifted at the end.
    File {
        actions: SmallVec<[super::file::Action; 1]>,
        base: Option<usize>,
    },
    Merge,
    Diff {
        lower: bool,
        upper: bool,
    },
    Passthrough {
        id: String,
    },
    /// An op that came from a definition: its bytes stay.
    Raw {
        raw: Bytes,
    },
    /// Stands for an output that is known only later.
    Deferred(Slot),
}

/// What a deferred output stands for: nothing yet, scratch, or another output.
pub(super) type Slot = Arc<OnceLock<Option<Output>>>;

impl Node {
    /// Notes what the daemon must be capable of.
    pub(super) fn note_caps(&self, caps: &mut Vec<&'static str>) {
        caps.extend(self.constraints.caps.iter());
        match &self.kind {
            Kind::Exec(exec) => exec.note_caps(&self.inputs, self.constraints.limits_resources(), caps),
            Kind::File { actions, .. } => super::file::note_caps(actions, caps),
            Kind::Merge => caps.push(caps::MERGE_OP),
            Kind::Diff { .. } => caps.push(caps::DIFF_OP),
            Kind::Passthrough { .. } => caps.push(caps::PASSTHROUGH_OP),
            // Sources have noted theirs, and ops from definitions bring them along.
            Kind::Source { .. } | Kind::Raw { .. } | Kind::Deferred(_) => {}
        }
    }

    /// A new node's first output.
    pub(super) fn output(kind: Kind, inputs: Inputs, constraints: Constraints) -> Output {
        Output { node: Arc::new(Self { kind, inputs, constraints }), index: 0 }
    }
}

/// A chain of states is as long as its author likes: letting go of it must not use the stack.
impl Drop for Node {
    fn drop(&mut self) {
        let mut todo = std::mem::take(&mut self.inputs);
        while let Some(mut output) = todo.pop() {
            if let Some(node) = Arc::get_mut(&mut output.node) {
                todo.extend(std::mem::take(&mut node.inputs));
            }
        }
    }
}
