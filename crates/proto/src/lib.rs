//! The wire: BuildKit's gRPC services, LLB messages and what rides in their errors.
//!
//! `proto/` holds the definitions; each protobuf package is one module here. `bytes` fields are [`bytes::Bytes`] and maps are
//! `BTreeMap`s, so that an encoding depends on the message alone; those by digest are [`ByDigest`]s, which keep their order. What must hold for every connection (message and header
//! limits) is in [`limits`], how errors carry their details in [`status`], the JSON of messages in [`protojson`].

mod by_digest;
mod definition;
pub mod limits;
mod location;
mod metadata;
pub mod protojson;
mod small_map;
pub mod status;

/// The packages, nested as protobuf nests them; the names below are what people use.
#[allow(
    clippy::all,
    clippy::allow_attributes,
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from proto/, which has the comments"
)]
mod packages {
    tonic::include_proto!("packages");
}

pub use by_digest::{ByDigest, DigestKey};
pub use definition::{Definition, Source};
pub use location::{Location, Locations, Ranges};
pub use metadata::OpMetadata;
pub use small_map::SmallMap;

pub use packages::{
    containerd::services::content::v1 as content,
    errdefs,
    fsutil::types as fsutil,
    google::rpc,
    grpc::health::v1 as health,
    kiln::history::v1 as history,
    moby::{
        buildkit::{
            secrets::v1 as secrets,
            v1 as control,
            v1::{apicaps as caps, frontend as gateway, sourcepolicy, sourcepolicy::policysession, types},
        },
        exporter::v1 as exporter,
        filesync::v1 as filesync,
        sshforward::v1 as sshforward,
        upload::v1 as upload,
    },
    opentelemetry::proto::collector::trace::v1 as trace,
    stack,
};

/// LLB.
pub mod pb {
    pub use crate::packages::pb::*;
    pub use crate::{Definition, Location, Locations, Source};
}

/// The methods of all services, as HTTP/2 paths: `/package.Service/Method`.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The encoded `FileDescriptorSet` of all packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests;
