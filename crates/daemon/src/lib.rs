//! The daemon: BuildKit's control and gateway services over the house below.
//!
//! ```text
//!   listeners ─▶ Control ── Solve ──▶ build ─▶ bridge ─▶ engine …      one build: job, frontend, exporters
//!                 │  ├───── Status ◀── log    (append-only, on disk)
//!                 │  └───── Session ─▶ session manager
//!                 └─ LLBBridge ─────▶ the build that its header names; a frontend in a container has a service of its own
//! ```
//!
//! [`Config`] is what the flags and `buildkitd.toml` come to; [`Daemon::start`] opens the state folder and makes the services;
//! [`serve`] listens until it is told to stop. A process that wants to build without a daemon takes [`Daemon::connect`].

mod ahead;
mod build;
mod builds;
mod caches;
mod client_exporters;
mod compatibility;
pub mod config;
mod containers;
mod content;
mod control;
mod conversation;
mod daemon;
mod door;
mod error;
mod exec;
mod export;
mod gateway;
mod history;
mod listen;
mod log;
mod op_json;
mod platforms;
mod producers;
mod provenance;
mod results;
mod services;
mod signals;
mod version;

pub use config::Config;
pub use daemon::Daemon;
pub use error::Error;
pub use listen::{Listener, TlsFiles, serve};
