//! What the ops of LLB do: for each, how its result is found in a cache and how it is made.
//!
//! [`Kiln`] is the engine's domain: its op is [`KilnOp`], its result an [`Output`] (a file tree, or nothing). [`load`] turns a checked
//! definition into the engine's graph. What ops need of the machine (worker, executor, sources, sessions) is one [`Host`].
//!
//! The digest of a cache map is that of the JSON which BuildKit makes of the op, byte for byte: [`canonical`] is that encoder.

mod build;
pub mod canonical;
pub mod container;
mod devices;
mod domain;
mod entitlements;
mod error;
mod exec;
mod file;
mod gate;
mod hashes;
mod host;
mod layers;
mod load;
mod passthrough;
mod selector;
mod source;
mod stop;
mod witness;

pub use devices::{DeviceError, DeviceRegistry};
pub use domain::{JobData, Kiln, KilnOp, Material, Output, providers_for, providers_of};
pub use entitlements::{DeviceGrants, Entitlement, Entitlements, Grant, UnknownEntitlement};
pub use error::OpError;
pub use exec::filling::{MountSource, WantedMount};
pub use gate::Gate;
pub use hashes::Hashes;
pub use host::Host;
pub use layers::steps_below;
pub use load::{LoadError, NamedMount, cache_mounts, load, load_uncached};
pub use witness::{Content, Witness};
