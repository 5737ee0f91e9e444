//! The nouns of container images: digests, references, platforms, descriptors, manifests, image configs.
//!
//! Everything here is plain data. Whatever is hashed or sent to others is encoded as Go's `encoding/json`
//! would encode it ([`gojson`]), because digests of images and cache keys depend on the bytes.
//!
//! Sources: OCI image spec 1.1, the Docker image spec (health check, ONBUILD, shell), the Docker reference
//! grammar, containerd's platform matching.

mod config;
mod descriptor;
mod digest;
pub mod gojson;
pub mod media_type;
mod platform;
mod reference;
mod time;

pub use config::{ContainerConfig, HealthCheck, History, ImageConfig, RootFs};
pub use descriptor::{Descriptor, Index, Manifest, SCHEMA_VERSION};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use platform::{Platform, PlatformError, PlatformMatcher, default_path_env};
pub use reference::{DEFAULT_TAG, Reference, ReferenceError};
pub use time::{Time, TimeError};
