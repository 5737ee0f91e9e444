//! A record, made ready to be looked at.

use std::collections::HashMap;

use kiln_proto::{
    history::{Build, Ending, Input, Step},
    pb,
};
use prost::Message as _;

use crate::{Fact, align::Label, facts, name::Name};

/// A build.
pub(crate) struct View {
    pub(crate) build: Build,
    ops: Vec<pb::Op>,
    facts: Vec<Vec<Fact>>,
    index: HashMap<String, usize>,
}

/// An input of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// The step; `None` when the record does not have it.
    pub(crate) step: Option<usize>,
    /// Which of its outputs.
    pub(crate) output: i64,
}

impl View {
    pub(crate) fn new(build: Build) -> Self {
        // An op that cannot be read is one that nothing is known of.
        let ops: Vec<pb::Op> =
            build.steps.iter().map(|step| pb::Op::decode(&step.op[..]).unwrap_or_default()).collect();
        let facts = ops.iter().zip(&build.steps).map(|(op, step)| facts(op, &step.pin)).collect();
        let index = build.steps.iter().enumerate().map(|(at, step)| (step.digest.clone(), at)).collect();
        Self { build, ops, facts, index }
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.build.steps
    }

    /// The step with this digest.
    pub(crate) fn find(&self, digest: &str) -> Option<&Step> {
        self.index.get(digest).map(|at| &self.build.steps[*at])
    }

    pub(crate) fn facts(&self, step: usize) -> &[Fact] {
        &self.facts[step]
    }

    pub(crate) fn label(&self, step: usize) -> Label<'_> {
        use pb::op::Op;
        let kind = match &self.ops[step].op {
            Some(Op::Exec(_)) => "exec",
            Some(Op::Source(_)) => "source",
            Some(Op::File(_)) => "file",
            Some(Op::Merge(_)) => "merge",
            Some(Op::Diff(_)) => "diff",
            Some(Op::Build(_)) => "build",
            Some(Op::Passthrough(_)) => "passthrough",
            None => "",
        };
        Label { name: Name::parse(&self.build.steps[step].name), kind }
    }

    pub(crate) fn labels(&self) -> Vec<Label<'_>> {
        (0..self.steps().len()).map(|step| self.label(step)).collect()
    }

    pub(crate) fn is_source(&self, step: usize) -> bool {
        matches!(self.ops[step].op, Some(pb::op::Op::Source(_)))
    }

    /// Whether it is a folder of the client.
    pub(crate) fn is_local(&self, step: usize) -> bool {
        matches!(&self.ops[step].op, Some(pb::op::Op::Source(s)) if s.identifier.starts_with("local://"))
    }

    pub(crate) fn parents(&self, step: usize) -> Vec<Parent> {
        let parent =
            |input: &pb::Input| Parent { step: self.index.get(&input.digest).copied(), output: input.index };
        self.ops[step].inputs.iter().map(parent).collect()
    }

    /// What was known of an input.
    pub(crate) fn input(&self, step: usize, input: usize) -> Option<&Input> {
        self.build.steps[step].inputs.get(input)
    }

    /// The digest of what a step uses of an input, if it was hashed.
    pub(crate) fn content(&self, step: usize, input: usize) -> Option<&str> {
        self.input(step, input).map(|i| i.content.as_str()).filter(|content| !content.is_empty())
    }

    /// Whether the step has ended well, in whichever way.
    pub(crate) fn has_result(&self, step: usize) -> bool {
        matches!(
            self.build.steps[step].ending(),
            Ending::Ran | Ending::Cached | Ending::Unneeded | Ending::Resolved | Ending::Joined
        )
    }

    /// Whether its result was there when the build ended.
    pub(crate) fn had_result(&self, step: usize) -> bool {
        match self.build.steps[step].ending() {
            Ending::Ran | Ending::Joined => true,
            // Without a store only its key was found.
            Ending::Cached => !self.build.steps[step].store.is_empty(),
            _ => false,
        }
    }
}
