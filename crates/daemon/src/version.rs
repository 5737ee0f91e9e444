//! What the daemon calls itself.

use kiln_proto::types::BuildkitVersion;

/// BuildKit's clients switch features on by the version of BuildKit that a daemon stands for.
const BUILDKIT_VERSION: &str = "v0.32.0";
/// The version of the Dockerfile language that is built in.
pub(crate) const DOCKERFILE_VERSION: &str = "1.20.0";

/// What web servers and registries are told.
pub(crate) fn user_agent() -> String {
    format!("kiln/{} (buildkit/{BUILDKIT_VERSION})", env!("CARGO_PKG_VERSION"))
}

/// The version as clients are told.
pub(crate) fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "github.com/moby/buildkit".into(),
        version: format!("{BUILDKIT_VERSION}+kiln.{}", env!("CARGO_PKG_VERSION")),
        revision: String::new(),
        dockerfile_version: DOCKERFILE_VERSION.into(),
    }
}
