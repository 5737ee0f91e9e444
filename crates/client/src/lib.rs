//! The client's side of a build.
//!
//! ```text
//!   command line ─▶ options ─▶ build::Build ──▶ run(channel)  ──▶ Outcome (exporter response, sub-request's answer)
//!                                   │              │   └─ Status ─▶ progress::Display (rawjson, plain, tty, quiet)
//!                              services ◀─ session ┘
//! ```
//!
//! - [`connect`] turns an address into a gRPC channel: sockets, TCP with TLS, pipes, and helpers such as `ssh` or `docker exec`.
//! - [`options`] reads what people write after flags (`type=oci,dest=…`) into types.
//! - [`services`] answer the daemon: folders, results, credentials, secrets, agents, uploads, OCI layouts.
//! - [`build`] runs a build; [`progress`] shows it; [`excerpt`] shows where it failed; [`metadata`] and [`metrics`] write it down.
//!
//! A daemon that is not named and not running is not this crate's affair: whoever has one in its process gives its channel.

pub mod build;
pub mod connect;
mod error;
pub mod excerpt;
pub mod fs;
pub mod metadata;
pub mod metrics;
pub mod options;
pub mod progress;
pub mod services;
pub mod units;

pub use error::Error;
