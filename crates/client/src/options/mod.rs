//! What people write after flags, as types.

mod cache;
mod csv;
mod opt;
mod output;
mod policy;
mod registry_tls;
mod secret;
mod ssh;

pub use cache::{CacheEntry, parse_cache_export, parse_cache_import};
pub use csv::{Attrs, parse_attrs, parse_bool, parse_fields};
pub use opt::{parse_allow, parse_opts, parse_pairs};
pub use output::{Destination, Output, parse_output};
pub use policy::parse_source_policy;
pub use registry_tls::{RegistryTls, parse_registry_tls};
pub use secret::{Secret, SecretSource, parse_secret};
pub use ssh::{AgentConfig, parse_ssh};
