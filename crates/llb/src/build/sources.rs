//! States that begin somewhere: images, folders of the client, git, the web.

use std::collections::BTreeMap;

use kiln_oci::{Digest, Reference, gojson};

use super::node::{Inputs, Kind, Node};
use super::{Constraints, State};
use crate::source::{FileMeta, GitUrl, GitUrlError, ResolveMode};
use crate::{Error, attr, caps};

fn source(identifier: String, attrs: BTreeMap<String, String>, constraints: Constraints) -> State {
    State::start(Some(Node::output(Kind::Source { identifier, attrs }, Inputs::new(), constraints)))
}

fn set(attrs: &mut BTreeMap<String, String>, name: &str, value: impl Into<String>) {
    attrs.insert(name.to_owned(), value.into());
}

/// Options of [`image`].
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// When to ask the registry. The default mode is not written down.
    pub resolve_mode: ResolveMode,
    /// How `du` shows the layers, if not as usual.
    pub record_type: Option<String>,
    /// Use so many lower layers only.
    pub layer_limit: Option<usize>,
    /// The digest that must come out.
    pub checksum: Option<Digest>,
}

/// An image of a registry. Its config is not looked at, see [`State::image_config`].
///
/// # Errors
/// When `reference` is not an image reference.
pub fn image(reference: &str, options: ImageOptions, constraints: Constraints) -> Result<State, Error> {
    let reference = Reference::parse(reference).map_err(|e| Error::source(reference, e))?.with_default_tag();
    Ok(image_of(&reference.to_string(), options, constraints))
}

/// [`image`] by the text of a complete reference, which is taken as it is.
pub fn image_of(reference: &str, options: ImageOptions, mut constraints: Constraints) -> State {
    constraints.add_cap(caps::SOURCE_IMAGE);
    let mut attrs = BTreeMap::new();
    if options.resolve_mode != ResolveMode::Default {
        set(&mut attrs, attr::IMAGE_RESOLVE_MODE, options.resolve_mode.as_str());
        if options.resolve_mode == ResolveMode::ForcePull {
            constraints.add_cap(caps::SOURCE_IMAGE_RESOLVE_MODE);
        }
    }
    if let Some(record_type) = options.record_type {
        set(&mut attrs, attr::IMAGE_RECORD_TYPE, record_type);
    }
    if let Some(limit) = options.layer_limit {
        set(&mut attrs, attr::IMAGE_LAYER_LIMIT, limit.to_string());
        constraints.add_cap(caps::SOURCE_IMAGE_LAYER_LIMIT);
    }
    if let Some(checksum) = options.checksum {
        set(&mut attrs, attr::IMAGE_CHECKSUM, checksum);
        constraints.add_cap(caps::SOURCE_IMAGE_CHECKSUM);
    }
    source(["docker-image://", reference].concat(), attrs, constraints)
}

/// Options of [`oci_layout`].
#[derive(Debug, Clone, Default)]
pub struct OciLayoutOptions {
    /// The session that has the layout.
    pub session: String,
    /// The name of its content store.
    pub store: String,
    /// Use so many lower layers only.
    pub layer_limit: Option<usize>,
}

/// An image in an OCI layout of the client.
pub fn oci_layout(reference: &str, options: OciLayoutOptions, constraints: Constraints) -> State {
    let mut attrs = BTreeMap::new();
    if !options.session.is_empty() {
        set(&mut attrs, attr::OCI_SESSION, options.session);
    }
    if !options.store.is_empty() {
        set(&mut attrs, attr::OCI_STORE, options.store);
    }
    if let Some(limit) = options.layer_limit {
        set(&mut attrs, attr::OCI_LAYER_LIMIT, limit.to_string());
    }
    source(format!("oci-layout://{reference}"), attrs, constraints.cap(caps::SOURCE_OCI_LAYOUT))
}

/// Options of [`local`].
#[derive(Debug, Clone, Default)]
pub struct LocalOptions {
    /// The session that has the folder; without one the op gets a unique id.
    pub session: String,
    /// Patterns to include; all when empty.
    pub include: Vec<String>,
    /// Patterns to leave out.
    pub exclude: Vec<String>,
    /// Paths whose symlinks are followed.
    pub follow_paths: Vec<String>,
    /// Names the copy that transfers update.
    pub shared_key_hint: String,
    /// How changed files are found: the word and whether the daemon must know it.
    pub differ: Option<(String, bool)>,
    /// Transfer no content but that of these paths.
    pub metadata_only: Option<Vec<String>>,
}

/// A folder of the client.
pub fn local(name: &str, options: LocalOptions, mut constraints: Constraints) -> State {
    let mut attrs = BTreeMap::new();
    if !options.session.is_empty() {
        set(&mut attrs, attr::LOCAL_SESSION, options.session);
        constraints.add_cap(caps::SOURCE_LOCAL_SESSION_ID);
    }
    for (list, name, cap) in [
        (&options.include, attr::LOCAL_INCLUDE, caps::SOURCE_LOCAL_INCLUDE_PATTERNS),
        (&options.follow_paths, attr::LOCAL_FOLLOW_PATHS, caps::SOURCE_LOCAL_FOLLOW_PATHS),
        (&options.exclude, attr::LOCAL_EXCLUDE, caps::SOURCE_LOCAL_EXCLUDE_PATTERNS),
    ] {
        if !list.is_empty() {
            set(&mut attrs, name, json(list));
            constraints.add_cap(cap);
        }
    }
    if !options.shared_key_hint.is_empty() {
        set(&mut attrs, attr::LOCAL_SHARED_KEY_HINT, options.shared_key_hint);
        constraints.add_cap(caps::SOURCE_LOCAL_SHARED_KEY_HINT);
    }
    if let Some((differ, required)) = options.differ {
        set(&mut attrs, attr::LOCAL_DIFFER, differ);
        if required {
            constraints.add_cap(caps::SOURCE_LOCAL_DIFFER);
        }
    }
    if let Some(exceptions) = options.metadata_only {
        set(&mut attrs, attr::LOCAL_METADATA_TRANSFER, "true");
        if !exceptions.is_empty() {
            set(&mut attrs, attr::LOCAL_METADATA_TRANSFER_EXCLUDE, json(&exceptions));
        }
        constraints.add_cap(caps::SOURCE_METADATA_TRANSFER);
    }
    constraints.add_cap(caps::SOURCE_LOCAL);
    source(format!("local://{name}"), attrs, constraints)
}

/// A list of strings always encodes.
fn json(list: &[String]) -> String {
    gojson::to_string(list).unwrap_or_default()
}

/// Options of [`http`].
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// The digest that must come out.
    pub checksum: Option<Digest>,
    /// What the file looks like.
    pub file: FileMeta,
    /// Id of the secret with an `Authorization` header.
    pub auth_header_secret: String,
    /// Request headers: `accept` and `user-agent` are allowed.
    pub headers: Vec<(String, String)>,
    /// Detached signature: keys and signature.
    pub signature: Option<(String, String)>,
}

/// A file from the web, alone in its file system.
pub fn http(url: &str, options: HttpOptions, mut constraints: Constraints) -> State {
    let mut attrs = BTreeMap::new();
    if let Some(checksum) = options.checksum {
        set(&mut attrs, attr::HTTP_CHECKSUM, checksum);
        constraints.add_cap(caps::SOURCE_HTTP_CHECKSUM);
    }
    if let Some(name) = options.file.filename {
        set(&mut attrs, attr::HTTP_FILENAME, name);
    }
    if let Some(mode) = options.file.mode.filter(|&m| m != 0) {
        set(&mut attrs, attr::HTTP_PERM, format!("0{:o}", mode & 0o777));
        constraints.add_cap(caps::SOURCE_HTTP_PERM);
    }
    for (id, name) in [(options.file.uid, attr::HTTP_UID), (options.file.gid, attr::HTTP_GID)] {
        if id != 0 {
            set(&mut attrs, name, id.to_string());
            constraints.add_cap(caps::SOURCE_HTTP_UID_GID);
        }
    }
    if !options.auth_header_secret.is_empty() {
        set(&mut attrs, attr::HTTP_AUTH_HEADER_SECRET, options.auth_header_secret);
        constraints.add_cap(caps::SOURCE_HTTP_AUTH);
    }
    for (name, value) in options.headers {
        set(&mut attrs, &format!("{}{name}", attr::HTTP_HEADER_PREFIX), value);
        constraints.add_cap(caps::SOURCE_HTTP_HEADER);
    }
    if let Some((key, signature)) = options.signature {
        set(&mut attrs, attr::HTTP_SIG_PUBKEY, key);
        set(&mut attrs, attr::HTTP_SIG, signature);
        constraints.add_cap(caps::SOURCE_HTTP_SIGNATURE_VERIFY);
    }
    source(url.to_owned(), attrs, constraints.cap(caps::SOURCE_HTTP))
}

/// Options of [`git`].
#[derive(Debug, Clone, Default)]
pub struct GitOptions {
    /// Branch, tag or commit, in place of the URL's fragment.
    pub reference: String,
    /// Folder within the repository, in place of the URL's fragment.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// The commit that must come out.
    pub checksum: String,
    /// Leave submodules out.
    pub skip_submodules: bool,
    /// Times of files, `checkout` or `commit`.
    pub mtime: String,
    /// Fetch the checksum's commit whatever the ref says now.
    pub fetch_by_commit: bool,
    /// Id of the secret with a token; the usual one when empty.
    pub auth_token_secret: String,
    /// Id of the secret with a header; the usual one when empty.
    pub auth_header_secret: String,
    /// Lines of a `known_hosts` file.
    pub known_ssh_hosts: String,
    /// Id of the forwarded agent; `default` when empty.
    pub mount_ssh_sock: String,
}

/// A git repository. `url` may lack `https://`, its query is ignored.
///
/// # Errors
/// When `url` is not one that git could use.
pub fn git(url: &str, options: GitOptions, mut constraints: Constraints) -> Result<State, Error> {
    let parsed = match GitUrl::parse(url) {
        Err(GitUrlError::NoProtocol) => GitUrl::parse(&format!("https://{url}")),
        other => other,
    };
    let parsed = parsed.map_err(|e| Error::source(url, e))?;
    let pick = |given: String, own: &str| if given.is_empty() { own.to_owned() } else { given };
    let reference = pick(options.reference, &parsed.reference);
    let subdir = crate::source::clean_subdir(&pick(options.subdir, &parsed.subdir));
    let mut id = format!("git://{}{}", parsed.host, kiln_pattern::join("/", &parsed.path));
    if !reference.is_empty() || !subdir.is_empty() {
        id = format!("{id}#{reference}");
        if !subdir.is_empty() {
            id = format!("{id}:{subdir}");
        }
    }
    let mut attrs = BTreeMap::new();
    set(&mut attrs, attr::GIT_FULL_URL, parsed.remote);
    constraints.add_cap(caps::SOURCE_GIT_FULL_URL);
    let custom = !options.auth_token_secret.is_empty() || !options.auth_header_secret.is_empty();
    set(&mut attrs, attr::GIT_AUTH_TOKEN_SECRET, pick(options.auth_token_secret, "GIT_AUTH_TOKEN"));
    set(&mut attrs, attr::GIT_AUTH_HEADER_SECRET, pick(options.auth_header_secret, "GIT_AUTH_HEADER"));
    if custom {
        constraints.add_cap(caps::SOURCE_GIT_HTTP_AUTH);
    }
    if parsed.scheme == "ssh" {
        if !options.known_ssh_hosts.is_empty() {
            set(&mut attrs, attr::GIT_KNOWN_SSH_HOSTS, options.known_ssh_hosts);
        }
        set(&mut attrs, attr::GIT_MOUNT_SSH_SOCK, pick(options.mount_ssh_sock, "default"));
        constraints.add_cap(caps::SOURCE_GIT_KNOWN_SSH_HOSTS);
        constraints.add_cap(caps::SOURCE_GIT_MOUNT_SSH_SOCK);
    }
    for (on, name, cap) in [
        (options.keep_git_dir, attr::GIT_KEEP_DIR, caps::SOURCE_GIT_KEEP_DIR),
        (options.skip_submodules, attr::GIT_SKIP_SUBMODULES, caps::SOURCE_GIT_SKIP_SUBMODULES),
        (options.fetch_by_commit, attr::GIT_FETCH_BY_COMMIT, caps::SOURCE_GIT_FETCH_BY_COMMIT),
    ] {
        if on {
            set(&mut attrs, name, "true");
            constraints.add_cap(cap);
        }
    }
    for (value, name, cap) in [
        (options.checksum, attr::GIT_CHECKSUM, caps::SOURCE_GIT_CHECKSUM),
        (options.mtime, attr::GIT_MTIME, caps::SOURCE_GIT_MTIME),
    ] {
        if !value.is_empty() {
            set(&mut attrs, name, value);
            constraints.add_cap(cap);
        }
    }
    Ok(source(id, attrs, constraints.cap(caps::SOURCE_GIT)))
}
