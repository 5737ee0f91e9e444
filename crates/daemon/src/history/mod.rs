//! What is kept of builds that have ended, for whoever lists builds or asks why a step was not cached.
//!
//! ```text
//!   <root>/kiln/history/builds/<milliseconds>-<hash of ref>   one record for each build: history.Build
//!   <root>/kiln/history/files/<digest>                        the files that a content digest is made of: history.Files
//!   <root>/kiln/history/logs/<as its record>                  a build's progress, as crate::log writes it
//!   <root>/kiln/history/errors/<as its record>.<SHA-256>      a google.rpc.Status, with all details
//!   <root>/kiln/history/pinned/<as its record>                empty: the record and the log stay
//!
//!   file = "KILNREC1", first 8 hex digits of the SHA-256 of what follows, the message
//! ```
//!
//! Files are written aside and renamed, and not synced: one that a power loss has cut fails its checksum and is left out. The
//! oldest go first when there are too many, or too much of them; lists of files by when they were written, so that a record may
//! outlive its lists. Nothing else in the state folder refers to any of this.
//!
//! A record is made of the build's definitions, which are here anyway, of the engine's [decisions](kiln_engine::Decision) as they were
//! told, and of what the job holds at its end. Lists of files are made for contents that no list is known of, from hashes that the build has
//! computed: a build in which every step is cached makes none.

mod keep;
mod list;
mod live;
mod record;
mod recorder;
mod redact;
mod service;
mod turns;

pub(crate) use keep::History;
pub(crate) use list::{listen, update};
pub(crate) use record::{Ended, Recording, exports};
pub(crate) use recorder::Recorder;
pub(crate) use service::HistoryService;
