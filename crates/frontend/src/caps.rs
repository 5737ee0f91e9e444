//! What this daemon can do, as clients ask for it.

use kiln_llb::caps;

/// LLB capabilities whose work is not done yet: all others that are known here are advertised.
const MISSING_LLB: &[&str] = &[
    caps::SOURCE_GIT_SIGNATURE_VERIFY,
    caps::SOURCE_GIT_BUNDLE,
    caps::SOURCE_GIT_CHECKOUT_BUNDLE,
    caps::SOURCE_HTTP_SIGNATURE_VERIFY,
    caps::EXEC_META_NETWORK_PROXY,
    caps::EXEC_META_SECURITY_DEVICES_V1,
    caps::REMOTE_CACHE_GHA,
    caps::REMOTE_CACHE_S3,
    caps::REMOTE_CACHE_AZBLOB,
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
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.exec.filesystem",
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
    "source.metaresolver.image.attestations",
];

/// The LLB capabilities that work.
pub fn llb() -> impl Iterator<Item = &'static str> {
    caps::ALL.iter().copied().filter(|cap| !MISSING_LLB.contains(cap))
}

/// The gateway's capabilities that work.
pub fn gateway() -> impl Iterator<Item = &'static str> {
    GATEWAY.iter().copied()
}
