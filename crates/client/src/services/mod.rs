//! What the daemon may ask of the client during a build.

pub mod auth;
mod content;
mod files;
mod layout;
mod results;
mod secrets;
pub mod ssh;
mod upload;

pub use auth::Auth;
pub use content::Content;
pub use files::Files;
pub use layout::{Layout, Name};
pub use results::{Results, Target};
pub use secrets::Secrets;
pub use ssh::Agents;
pub use upload::Uploads;

use std::pin::Pin;

use futures::Stream;
use tonic::Status;

/// What a service's method streams to the daemon.
pub(crate) type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An error that the daemon is told as it is.
pub(crate) fn failed(error: impl std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}
