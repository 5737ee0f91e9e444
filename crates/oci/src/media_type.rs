//! Media types of manifests, configs and layers, and what follows from them.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The empty JSON object `{}`, as the config of artifacts.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Plain OCI layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Plain OCI layer that may not be pushed elsewhere.
pub const OCI_LAYER_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// OCI layer that may not be pushed elsewhere, gzip.
pub const OCI_LAYER_FOREIGN_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// OCI layer that may not be pushed elsewhere, zstd.
pub const OCI_LAYER_FOREIGN_ZSTD: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";

/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image manifest, schema 1: no longer readable, known for a clear error.
pub const DOCKER_MANIFEST_V1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Plain Docker layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker layer that may not be pushed elsewhere.
pub const DOCKER_LAYER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Docker layer that may not be pushed elsewhere, gzip.
pub const DOCKER_LAYER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// In-toto statement, the layers of attestation manifests.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// A directory tree that BuildKit's cache exporter describes.
pub const BUILDKIT_CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// A manifest of one image.
pub fn is_manifest(t: &str) -> bool {
    matches!(t, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// An index (manifest list).
pub fn is_index(t: &str) -> bool {
    matches!(t, OCI_INDEX | DOCKER_INDEX)
}

/// An image config.
pub fn is_config(t: &str) -> bool {
    matches!(t, OCI_CONFIG | DOCKER_CONFIG)
}

/// Any layer of a container image.
pub fn is_layer(t: &str) -> bool {
    t.starts_with(OCI_LAYER)
        || t.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || t.starts_with("application/vnd.docker.image.rootfs.")
}

/// A layer that registries should not be given (the base layers of old Windows images).
pub fn is_foreign_layer(t: &str) -> bool {
    t.starts_with(OCI_LAYER_FOREIGN) || t.starts_with(DOCKER_LAYER_FOREIGN)
}

/// The Docker type of an OCI one. Types that Docker has no word for stay as they are.
pub fn to_docker(t: &str) -> &str {
    match t {
        OCI_MANIFEST => DOCKER_MANIFEST,
        OCI_INDEX => DOCKER_INDEX,
        OCI_CONFIG => DOCKER_CONFIG,
        OCI_LAYER => DOCKER_LAYER,
        OCI_LAYER_GZIP => DOCKER_LAYER_GZIP,
        OCI_LAYER_ZSTD => DOCKER_LAYER_ZSTD,
        OCI_LAYER_FOREIGN => DOCKER_LAYER_FOREIGN,
        OCI_LAYER_FOREIGN_GZIP => DOCKER_LAYER_FOREIGN_GZIP,
        other => other,
    }
}

/// The OCI type of a Docker one. Other types stay as they are.
pub fn to_oci(t: &str) -> &str {
    match t {
        DOCKER_MANIFEST => OCI_MANIFEST,
        DOCKER_INDEX => OCI_INDEX,
        DOCKER_CONFIG => OCI_CONFIG,
        DOCKER_LAYER => OCI_LAYER,
        DOCKER_LAYER_GZIP => OCI_LAYER_GZIP,
        DOCKER_LAYER_ZSTD => OCI_LAYER_ZSTD,
        DOCKER_LAYER_FOREIGN => OCI_LAYER_FOREIGN,
        DOCKER_LAYER_FOREIGN_GZIP => OCI_LAYER_FOREIGN_GZIP,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for t in [OCI_MANIFEST, OCI_INDEX, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD] {
            assert_ne!(to_docker(t), t);
            assert_eq!(to_oci(to_docker(t)), t);
        }
        assert_eq!(to_docker(IN_TOTO), IN_TOTO);
        assert!(is_layer(DOCKER_LAYER_FOREIGN_GZIP) && is_foreign_layer(DOCKER_LAYER_FOREIGN_GZIP));
        assert!(!is_layer(OCI_CONFIG) && !is_foreign_layer(OCI_LAYER_GZIP));
    }
}
