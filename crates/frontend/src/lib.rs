//! What turns a build's input into LLB.
//!
//! A frontend is given a [`Bridge`]: one build's way to solve definitions, to look into their results and to ask about sources. What
//! it gives back is a [`FrontendResult`]: refs by platform, with metadata such as image configs. Refs are lazy: a definition is
//! checked at once, and built when somebody reads a file of it or exports it.
//!
//! [`dockerfile`] is the frontend `dockerfile.v0`, in this process. `gateway.v0` runs a frontend's image in a container. It speaks
//! to the same bridge over the gateway service, as does a client that drives a build itself; the service is the daemon's, and
//! [`Door`] is how it is reached from here.

pub mod attest;
mod bridge;
mod build_ref;
pub mod caps;
pub mod dockerfile;
mod errors;
pub mod files;
mod foreign;
mod frontends;
mod imports;
mod metadata;
pub mod policy;
mod result;
mod results;
mod sources;
mod steps;

pub use bridge::{Bridge, FoundImage, ImageError, Permissions, Request};
pub use build_ref::BuildRef;
pub use errors::{solve_error, wire_error};
pub use foreign::NAME as GATEWAY;
pub use frontends::{Door, FrontendCall, Frontends, LastSolve};
pub use imports::{CacheImport, CacheImports};
pub use policy::SourcePolicies;
pub use result::{FrontendResult, Refs};
pub use results::Results;
pub use sources::NamedImage;
pub use steps::{Step, Steps};
