//! The rules of the engine, one by one, with fake ops.

pub(crate) mod fake;

mod cache;
mod jobs;
mod keys;
mod progress;
mod scale;
