//! Sessions: gRPC running backwards over the client's connection.
//!
//! A client opens one byte stream to the daemon (the control service's `Session` method) and then *serves* gRPC on it; the daemon
//! calls it whenever a build needs something that only the client has.
//!
//! ```text
//!   client ── Control.Session(headers) ─────────────▶ daemon
//!          ◀═ HTTP/2, the client is the server ══════
//!               FileSync   files of named folders       (context, Dockerfile)
//!               FileSend   results: archives, folders
//!               Auth       registry credentials, tokens
//!               Secrets, SSH, Upload, Content, Exporter, PolicyVerifier
//!               Health     is the client still there?
//! ```
//!
//! The headers of the stream ([`headers`]) name the session, its shared key and the methods that the client serves.
//!
//! - Daemon side: [`Manager`] takes the streams, a [`Session`] is one client that is there, a [`Group`] is whoever may answer for a
//!   build; [`caller`] has a typed function for each thing to ask.
//! - Client side: [`client::ClientSession`] with the services that it is given; [`client`] has those that need no more than files.

pub mod caller;
pub mod client;
mod connection;
mod error;
mod group;
pub mod headers;
mod id;
mod incoming;
mod manager;
mod tunnel;

pub use connection::{connect, serve};
pub use error::Error;
pub use group::Group;
pub use id::random_id;
pub use incoming::Incoming;
pub use manager::{Manager, Session};
pub use tunnel::{Tunnel, outgoing};
