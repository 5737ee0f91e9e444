//! Why the steps of a build were not cached.
//!
//! A daemon keeps a [record](kiln_proto::history::Build) of each build: its steps as they were asked for, how each ended, and what
//! the engine knew of its keys. [`explain`] compares one record with those of earlier builds and gives an [`Answer`], which is JSON
//! (`docs/why.md`) or [text](text::write). All of it is a pure function: records in, answer out.
//!
//! ```text
//!   records ─▶ lineage   which earlier builds are builds of the same thing, the likeliest first
//!           ─▶ align     which step of an earlier build is "the same step"
//!           ─▶ same      whether both had the same key: by op, by content, by what they follow
//!           ─▶ facts     what an op is made of, as far as it is in its key ─▶ compare ─▶ differences
//!           ─▶ explain   the cause, for each step that ran
//! ```
//!
//! **Which builds are compared.** Earlier builds of the same project: same client folder (the session's shared key), same frontend,
//! Dockerfile name and context. Where there is none, builds of other projects with the same Dockerfile name, of which only steps
//! with equal names count. A step is compared with the latest of these builds that had it and ended it with a result; with the
//! latest that had it at all where none did.
//!
//! **Which step is the same.** Stages go by their names, and by their order where names do not match. Within a stage, steps of equal
//! text are the same, in order (the longest common sequence); between these, steps of the same instruction are, in order.

mod against;
mod align;
mod answer;
mod args;
mod compare;
mod describe;
mod explain;
mod facts;
mod file_facts;
mod files;
pub mod lineage;
mod name;
mod room;
mod roots;
mod same;
mod select;
pub mod text;
mod view;

pub use answer::{
    Answer, BuildInfo, Cause, Change, Compared, Counts, Difference, Follow, FoundBy, Key, KeyInput, Kind,
    Outcome, Place, Root, Status, StepAnswer, VERSION,
};
pub use compare::differences;
pub use explain::{NoStep, explain};
pub use facts::{Fact, facts};

#[cfg(test)]
mod tests;
