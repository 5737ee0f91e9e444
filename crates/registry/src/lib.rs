//! Container registries: resolve, pull and push, after the OCI distribution specification.
//!
//! - [`Registries`] is what the daemon's configuration says of each host: mirrors, plain HTTP, certificates. It owns the HTTP
//!   clients and the cached tokens.
//! - [`Remote`] is one repository as seen by one build: it resolves references, reads blobs and pushes them. Its credentials come
//!   from the build's session group, for every request anew; a token that one client's password bought serves only builds
//!   of that client.
//! - A blob that breaks off is resumed where it ended, in either direction; what can pass (a reset, a 429, a 5xx) is tried again with growing delays, or after the time that the registry asks for.

mod auth;
mod challenge;
mod config;
mod error;
mod motion;
mod push;
mod referrers;
mod remote;
mod retry;
mod transport;
mod upload;

pub use auth::{Access, Auth};
pub use config::{HostConfig, KeyPair};
pub use error::Error;
pub use push::Pushed;
pub use remote::{BlobStream, Remote, Resolved};
pub use transport::Registries;
