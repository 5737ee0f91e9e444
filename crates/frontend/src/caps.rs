//! What this daemon can do, as clients ask for it.

use kiln_llb::caps;

/// LLB capabilities whose work is not done yet: all others that are known here are advertised.
const MISSING_LLB: &[&str] = &[
    caps::SOURCE_GIT,
    caps::SOURCE_GIT_KEEP_DIR,
    caps::SOURCE_GIT_FULL_URL,
    caps::SOURCE_GIT_HTTP_AUTH,
    caps::SOURCE_GIT_KNOWN_SSH_HOSTS,
    caps::SOURCE_GIT_MOUNT_SSH_SOCK,
    caps::SOURCE_GIT_SUBDIR,
    caps::SOURCE_GIT_CHECKSUM,
    caps::SOURCE_GIT_SKIP_SUBMODULES,
    caps::SOURCE_GIT_SIGNATURE_VERIFY,
    caps::SOURCE_GIT_MTIME,
    caps::SOURCE_GIT_FETCH_BY_COMMIT,
    caps::SOURCE_GIT_BUNDLE,
    caps::SOURCE_GIT_CHECKOUT_BUNDLE,
    caps::SOURCE_HTTP,
    caps::SOURCE_HTTP_AUTH,
    caps::SOURCE_HTTP_CHECKSUM,
    caps::SOURCE_HTTP_PERM,
    caps::SOURCE_HTTP_UID_GID,
    caps::SOURCE_HTTP_HEADER,
    caps::SOURCE_HTTP_SIGNATURE_VERIFY,
    caps::SOURCE_IMAGE_BLOB,
    caps::EXEC_META_NETWORK_PROXY,
    caps::EXEC_META_SECURITY_DEVICES_V1,
    caps::EXEC_META_CDI,
    caps::REMOTE_CACHE_GHA,
    caps::REMOTE_CACHE_S3,
    caps::REMOTE_CACHE_AZBLOB,
    caps::PASSTHROUGH_OP,
    caps::SESSION_EXPORTER,
    caps::SOURCE_POLICY,
    caps::SOURCE_POLICY_SESSION,
    caps::HISTORY_FILTERS,
];

/// What the gateway service can do.
const GATEWAY: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "reference.attestations",
    "source.metaresolver",
];

/// The LLB capabilities that work.
pub fn llb() -> impl Iterator<Item = &'static str> {
    caps::ALL.iter().copied().filter(|cap| !MISSING_LLB.contains(cap))
}

/// The gateway's capabilities that work.
pub fn gateway() -> impl Iterator<Item = &'static str> {
    GATEWAY.iter().copied()
}
