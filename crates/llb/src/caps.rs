//! Capabilities: names of what a daemon understands. A definition lists those that its ops need, clients and frontends
//! look at those that a daemon advertises.

macro_rules! caps {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $value;)*

        /// Every capability of the protocol that this module knows, whether this build supports it or not.
        pub const ALL: &[&str] = &[$($value),*];
    };
}

caps! {
    /// Sources from registries.
    SOURCE_IMAGE = "source.image";
    /// Resolve modes are honoured.
    SOURCE_IMAGE_RESOLVE_MODE = "source.image.resolvemode";
    /// Layer limits of images.
    SOURCE_IMAGE_LAYER_LIMIT = "source.image.layerlimit";
    /// Checksums of images.
    SOURCE_IMAGE_CHECKSUM = "source.image.checksum";
    /// Files of the client.
    SOURCE_LOCAL = "source.local";
    /// Unique ids of local sources.
    SOURCE_LOCAL_UNIQUE = "source.local.unique";
    /// Local sources of a named session.
    SOURCE_LOCAL_SESSION_ID = "source.local.sessionid";
    /// Include patterns.
    SOURCE_LOCAL_INCLUDE_PATTERNS = "source.local.includepatterns";
    /// Follow paths.
    SOURCE_LOCAL_FOLLOW_PATHS = "source.local.followpaths";
    /// Exclude patterns.
    SOURCE_LOCAL_EXCLUDE_PATTERNS = "source.local.excludepatterns";
    /// Shared-key hints.
    SOURCE_LOCAL_SHARED_KEY_HINT = "source.local.sharedkeyhint";
    /// A choice of how changes are found.
    SOURCE_LOCAL_DIFFER = "source.local.differ";
    /// Transfers without content.
    SOURCE_METADATA_TRANSFER = "source.local.metadatatransfer";
    /// Git repositories.
    SOURCE_GIT = "source.git";
    /// Keeping `.git`.
    SOURCE_GIT_KEEP_DIR = "source.git.keepgitdir";
    /// Full URLs.
    SOURCE_GIT_FULL_URL = "source.git.fullurl";
    /// Tokens and headers from secrets.
    SOURCE_GIT_HTTP_AUTH = "source.git.httpauth";
    /// `known_hosts`.
    SOURCE_GIT_KNOWN_SSH_HOSTS = "source.git.knownsshhosts";
    /// Forwarded agents.
    SOURCE_GIT_MOUNT_SSH_SOCK = "source.git.mountsshsock";
    /// Subfolders.
    SOURCE_GIT_SUBDIR = "source.git.subdir";
    /// Commit checksums.
    SOURCE_GIT_CHECKSUM = "source.git.checksum";
    /// Leaving submodules out.
    SOURCE_GIT_SKIP_SUBMODULES = "source.git.skipsubmodules";
    /// Signatures.
    SOURCE_GIT_SIGNATURE_VERIFY = "source.git.signatureverify";
    /// Commit times on files.
    SOURCE_GIT_MTIME = "source.git.mtime";
    /// Fetching a commit whatever the ref says.
    SOURCE_GIT_FETCH_BY_COMMIT = "source.git.fetchbycommit";
    /// Bundles as input.
    SOURCE_GIT_BUNDLE = "source.git.bundle";
    /// Bundles as output.
    SOURCE_GIT_CHECKOUT_BUNDLE = "source.git.checkoutbundle";
    /// Files from the web.
    SOURCE_HTTP = "source.http";
    /// Authorization from secrets.
    SOURCE_HTTP_AUTH = "source.http.auth";
    /// Checksums.
    SOURCE_HTTP_CHECKSUM = "source.http.checksum";
    /// File modes.
    SOURCE_HTTP_PERM = "source.http.perm";
    /// Owners. The misspelling is the protocol's.
    SOURCE_HTTP_UID_GID = "soruce.http.uidgid";
    /// Request headers.
    SOURCE_HTTP_HEADER = "source.http.header";
    /// Signatures.
    SOURCE_HTTP_SIGNATURE_VERIFY = "source.http.signatureverify";
    /// Single blobs from registries and layouts.
    SOURCE_IMAGE_BLOB = "source.imageblob";
    /// OCI layouts of the client.
    SOURCE_OCI_LAYOUT = "source.ocilayout";
    /// Build ops that name their definition file.
    BUILD_OP_LLB_FILE_NAME = "source.buildop.llbfilename";
    /// Processes.
    EXEC_META_BASE = "exec.meta.base";
    /// Parent cgroups.
    EXEC_META_CGROUP_PARENT = "exec.meta.cgroup.parent";
    /// Network modes.
    EXEC_META_NETWORK = "exec.meta.network";
    /// Networks behind a proxy.
    EXEC_META_NETWORK_PROXY = "exec.meta.network.proxy";
    /// Proxy variables outside of the cache key.
    EXEC_META_PROXY = "exec.meta.proxyenv";
    /// Security modes.
    EXEC_META_SECURITY = "exec.meta.security";
    /// Device lists of the insecure mode.
    EXEC_META_SECURITY_DEVICES_V1 = "exec.meta.security.devices.v1";
    /// The worker sets a default `PATH`.
    EXEC_META_SETS_DEFAULT_PATH = "exec.meta.setsdefaultpath";
    /// Ulimits.
    EXEC_META_ULIMIT = "exec.meta.ulimit";
    /// CDI devices.
    EXEC_META_CDI = "exec.meta.cdi";
    /// Mount points that were made are removed with their parents.
    EXEC_META_REMOVE_MOUNT_STUBS_RECURSIVE = "exec.meta.removemountstubs.recursive";
    /// Memory and processor limits.
    EXEC_META_LINUX_RESOURCES = "exec.meta.linux.resources";
    /// Bind mounts.
    EXEC_MOUNT_BIND = "exec.mount.bind";
    /// Writable bind mounts without output.
    EXEC_MOUNT_BIND_READWRITE_NO_OUTPUT = "exec.mount.bind.readwrite-nooutput";
    /// Cache mounts.
    EXEC_MOUNT_CACHE = "exec.mount.cache";
    /// Sharing modes of cache mounts.
    EXEC_MOUNT_CACHE_SHARING = "exec.mount.cache.sharing";
    /// Mounts of a path inside an input.
    EXEC_MOUNT_SELECTOR = "exec.mount.selector";
    /// Mounts in memory.
    EXEC_MOUNT_TMPFS = "exec.mount.tmpfs";
    /// Their size.
    EXEC_MOUNT_TMPFS_SIZE = "exec.mount.tmpfs.size";
    /// Secrets as files.
    EXEC_MOUNT_SECRET = "exec.mount.secret";
    /// Forwarded agents.
    EXEC_MOUNT_SSH = "exec.mount.ssh";
    /// Choice of content-based caching per mount.
    EXEC_MOUNT_CONTENT_CACHE = "exec.mount.cache.content";
    /// `/sys/fs/cgroup` is mounted.
    EXEC_CGROUPS_MOUNTED = "exec.cgroup";
    /// Secrets as variables.
    EXEC_SECRET_ENV = "exec.secretenv";
    /// Other exit codes than 0.
    EXEC_VALID_EXIT_CODE = "exec.validexitcode";
    /// File operations.
    FILE_BASE = "file.base";
    /// Wildcards in removals.
    FILE_RM_WILDCARD = "file.rm.wildcard";
    /// Includes and excludes in copies.
    FILE_COPY_INCLUDE_EXCLUDE_PATTERNS = "file.copy.includeexcludepatterns";
    /// Paths that a copy must find.
    FILE_COPY_REQUIRED_PATHS = "file.copy.requiredpaths";
    /// Removals do not follow links.
    FILE_RM_NO_FOLLOW_SYMLINK = "file.rm.nofollowsymlink";
    /// Copies that replace files by folders and the reverse.
    FILE_COPY_ALWAYS_REPLACE = "file.copy.alwaysreplaceexistingdestpaths";
    /// Symbolic modes in copies.
    FILE_COPY_MODE_STRING = "file.copy.modestring";
    /// Making symlinks.
    FILE_SYMLINK_CREATE = "file.symlink.create";
    /// Worker constraints.
    CONSTRAINTS = "constraints";
    /// Platforms.
    PLATFORM = "platform";
    /// Vertices that ignore the cache.
    META_IGNORE_CACHE = "meta.ignorecache";
    /// Descriptions.
    META_DESCRIPTION = "meta.description";
    /// Choice of cache export per vertex.
    META_EXPORT_CACHE = "meta.exportcache";
    /// Cache in GitHub Actions.
    REMOTE_CACHE_GHA = "cache.gha";
    /// Cache in S3.
    REMOTE_CACHE_S3 = "cache.s3";
    /// Cache in Azure.
    REMOTE_CACHE_AZBLOB = "cache.azblob";
    /// Merge ops.
    MERGE_OP = "mergeop";
    /// Diff ops.
    DIFF_OP = "diffop";
    /// Passthrough ops.
    PASSTHROUGH_OP = "passthroughop";
    /// Annotations on exported images.
    ANNOTATIONS = "exporter.image.annotations";
    /// Attestations on exported images.
    ATTESTATIONS = "exporter.image.attestations";
    /// Reproducible timestamps in exporters.
    SOURCE_DATE_EPOCH = "exporter.sourcedateepoch";
    /// Several exporters per build.
    MULTIPLE_EXPORTERS = "exporter.multiple";
    /// Exporters of the client.
    SESSION_EXPORTER = "exporter.session";
    /// Source policies.
    SOURCE_POLICY = "source.policy";
    /// Source policies of the client.
    SOURCE_POLICY_SESSION = "source.policy.session";
    /// Garbage collection by free space.
    GC_FREE_SPACE_FILTER = "gc.freespacefilter";
    /// Filters of the history.
    HISTORY_FILTERS = "history.filter";
}

/// A set of supported capabilities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapSet(std::collections::BTreeSet<String>);

impl CapSet {
    /// Is `cap` supported?
    pub fn supports(&self, cap: &str) -> bool {
        self.0.contains(cap)
    }
}

impl<S: Into<String>> FromIterator<S> for CapSet {
    fn from_iter<T: IntoIterator<Item = S>>(iter: T) -> Self {
        Self(iter.into_iter().map(Into::into).collect())
    }
}
