//! Names of the attributes of source ops, and the words that some of them take.

/// Git: keep the `.git` folder (`true`).
pub const GIT_KEEP_DIR: &str = "git.keepgitdir";
/// Git: the URL as the user gave it; the identifier has no scheme and user.
pub const GIT_FULL_URL: &str = "git.fullurl";
/// Git: id of the secret with an `Authorization` header.
pub const GIT_AUTH_HEADER_SECRET: &str = "git.authheadersecret";
/// Git: id of the secret with an access token.
pub const GIT_AUTH_TOKEN_SECRET: &str = "git.authtokensecret";
/// Git over ssh: lines of a `known_hosts` file.
pub const GIT_KNOWN_SSH_HOSTS: &str = "git.knownsshhosts";
/// Git over ssh: id of the forwarded agent.
pub const GIT_MOUNT_SSH_SOCK: &str = "git.mountsshsock";
/// Git: the commit that must come out.
pub const GIT_CHECKSUM: &str = "git.checksum";
/// Git: leave submodules out (`true`).
pub const GIT_SKIP_SUBMODULES: &str = "git.skipsubmodules";
/// Git: modification times of files, `checkout` or `commit`.
pub const GIT_MTIME: &str = "git.mtime";
/// Git: fetch the checksum's commit whatever the ref says now (`true`).
pub const GIT_FETCH_BY_COMMIT: &str = "git.fetchbycommit";
/// Git: take the history from a bundle stored as a blob.
pub const GIT_BUNDLE: &str = "git.bundle";
/// Git: make a bundle rather than a work tree (`true`).
pub const GIT_CHECKOUT_BUNDLE: &str = "git.checkoutbundle";
/// Git: verify the signature with these keys.
pub const GIT_SIG_PUBKEY: &str = "git.sig.pubkey";
/// Git: expired keys do not count (`true`).
pub const GIT_SIG_REJECT_EXPIRED: &str = "git.sig.rejectexpired";
/// Git: the tag itself must be signed (`true`).
pub const GIT_SIG_REQUIRE_TAG: &str = "git.sig.requiresignedtag";
/// Git: look at the commit's signature even if the tag has one (`true`).
pub const GIT_SIG_IGNORE_TAG: &str = "git.sig.ignoresignedtag";

/// Local: the session that has the files.
pub const LOCAL_SESSION: &str = "local.session";
/// Local: makes the op unique to one client when no session is named.
pub const LOCAL_UNIQUE: &str = "local.unique";
/// Local: JSON list of patterns to include.
pub const LOCAL_INCLUDE: &str = "local.includepattern";
/// Local: JSON list of paths whose symlinks are followed and included.
pub const LOCAL_FOLLOW_PATHS: &str = "local.followpaths";
/// Local: JSON list of patterns to leave out.
pub const LOCAL_EXCLUDE: &str = "local.excludepatterns";
/// Local: names the copy that transfers update.
pub const LOCAL_SHARED_KEY_HINT: &str = "local.sharedkeyhint";
/// Local: how changed files are found, [`LOCAL_DIFFER_NONE`] or [`LOCAL_DIFFER_METADATA`].
pub const LOCAL_DIFFER: &str = "local.differ";
/// Local: transfer no content (`true`).
pub const LOCAL_METADATA_TRANSFER: &str = "local.metadatatransfer";
/// Local: JSON list of paths whose content is transferred nevertheless.
pub const LOCAL_METADATA_TRANSFER_EXCLUDE: &str = "local.metadatatransferexclude";
/// Every file is sent again.
pub const LOCAL_DIFFER_NONE: &str = "none";
/// Files are compared by metadata. The default.
pub const LOCAL_DIFFER_METADATA: &str = "metadata";

/// Build op: name of the file that holds the definition.
pub const LLB_DEFINITION_FILENAME: &str = "llbbuild.filename";

/// HTTP: the digest that must come out.
pub const HTTP_CHECKSUM: &str = "http.checksum";
/// HTTP and blobs: name of the file.
pub const HTTP_FILENAME: &str = "http.filename";
/// HTTP and blobs: its mode, octal with a leading 0.
pub const HTTP_PERM: &str = "http.perm";
/// HTTP and blobs: its owner.
pub const HTTP_UID: &str = "http.uid";
/// HTTP and blobs: its group.
pub const HTTP_GID: &str = "http.gid";
/// HTTP: id of the secret with an `Authorization` header.
pub const HTTP_AUTH_HEADER_SECRET: &str = "http.authheadersecret";
/// HTTP: prefix of request headers.
pub const HTTP_HEADER_PREFIX: &str = "http.header.";
/// HTTP: verify a detached signature with these keys.
pub const HTTP_SIG_PUBKEY: &str = "http.sig.pubkey";
/// HTTP: the detached signature.
pub const HTTP_SIG: &str = "http.sig.signature";

/// Image: [`RESOLVE_DEFAULT`], [`RESOLVE_PULL`] or [`RESOLVE_LOCAL`].
pub const IMAGE_RESOLVE_MODE: &str = "image.resolvemode";
/// Image: how `du` shows the layers.
pub const IMAGE_RECORD_TYPE: &str = "image.recordtype";
/// Image: use so many lower layers only.
pub const IMAGE_LAYER_LIMIT: &str = "image.layerlimit";
/// Image: the digest that must come out.
pub const IMAGE_CHECKSUM: &str = "image.checksum";
/// What the worker thinks best.
pub const RESOLVE_DEFAULT: &str = "default";
/// Ask the registry always.
pub const RESOLVE_PULL: &str = "pull";
/// Use the local image if there is one.
pub const RESOLVE_LOCAL: &str = "local";

/// OCI layout: the session that has the layout.
pub const OCI_SESSION: &str = "oci.session";
/// OCI layout: the name of its content store.
pub const OCI_STORE: &str = "oci.store";
/// OCI layout: use so many lower layers only.
pub const OCI_LAYER_LIMIT: &str = "oci.layerlimit";
