//! Source identifiers and their attributes, as types.
//!
//! ```text
//! docker-image://docker.io/library/busybox:latest
//! docker-image+blob://registry/repo@sha256:…
//! local://context
//! git://github.com/moby/buildkit#v0.11:sub/folder
//! http://… https://…
//! oci-layout://name/repo@sha256:…
//! oci-layout+blob://name/repo@sha256:…
//! ```

mod git;
mod git_url;
mod name;

use std::collections::BTreeMap;

use kiln_oci::{Digest, Platform, Reference};
use kiln_proto::pb;

use crate::graph::platform_from_pb;
use crate::{Error, attr};

pub use git::{Git, GitMtime, GitSignature};
pub(crate) use git_url::clean_subdir;
pub use git_url::{GitUrl, GitUrlError, is_commit_sha, is_git_transport};
pub use name::name;

/// What a source op asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identifier {
    /// An image of a registry.
    Image(Image),
    /// A single blob of a registry.
    ImageBlob(Blob),
    /// Files of a client.
    Local(Local),
    /// A git repository.
    Git(Box<Git>),
    /// A file from the web.
    Http(Http),
    /// An image in an OCI layout of a client.
    OciLayout(OciLayout),
    /// A single blob of an OCI layout of a client.
    OciBlob(Blob),
}

/// When to ask the registry for what a tag means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub enum ResolveMode {
    /// What the worker thinks best: ask, since a tag may move.
    #[default]
    Default,
    /// Always.
    ForcePull,
    /// Only if the image is not here.
    PreferLocal,
}

impl ResolveMode {
    /// The attribute's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => attr::RESOLVE_DEFAULT,
            Self::ForcePull => attr::RESOLVE_PULL,
            Self::PreferLocal => attr::RESOLVE_LOCAL,
        }
    }

    /// Reads the attribute's word; the empty one is the default.
    ///
    /// # Errors
    /// When it is none of `default`, `pull` and `local`.
    pub fn parse(s: &str) -> Result<Self, Error> {
        match s {
            attr::RESOLVE_DEFAULT | "" => Ok(Self::Default),
            attr::RESOLVE_PULL => Ok(Self::ForcePull),
            attr::RESOLVE_LOCAL => Ok(Self::PreferLocal),
            other => Err(Error::source(other, "resolve mode must be default, pull or local")),
        }
    }
}

/// `docker-image://`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The reference, complete.
    pub reference: Reference,
    /// The wanted platform.
    pub platform: Option<Platform>,
    /// When to ask the registry.
    pub resolve_mode: ResolveMode,
    /// How `du` shows the layers, if not as usual: `internal`, `frontend`, …
    pub record_type: Option<String>,
    /// Use so many lower layers only.
    pub layer_limit: Option<usize>,
    /// The digest that must come out.
    pub checksum: Option<Digest>,
}

/// `oci-layout://`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciLayout {
    /// The reference; its digest is what counts.
    pub reference: Reference,
    /// The wanted platform.
    pub platform: Option<Platform>,
    /// The session that has the layout; any of the build's when `None`.
    pub session: Option<String>,
    /// The name of its content store.
    pub store: Option<String>,
    /// Use so many lower layers only.
    pub layer_limit: Option<usize>,
}

/// `docker-image+blob://` and `oci-layout+blob://`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Where the blob is; always with a digest, never with a tag.
    pub reference: Reference,
    /// The blob.
    pub digest: Digest,
    /// What the file looks like.
    pub file: FileMeta,
    /// OCI layouts: the session that has the layout.
    pub session: Option<String>,
    /// OCI layouts: the name of its content store.
    pub store: Option<String>,
}

/// Name, mode and owner of a file that comes from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileMeta {
    /// Its name, if not the source's own.
    pub filename: Option<String>,
    /// Its mode, if not 0600.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// `http://` and `https://`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The whole URL.
    pub url: String,
    /// The digest that must come out.
    pub checksum: Option<Digest>,
    /// What the file looks like.
    pub file: FileMeta,
    /// Id of the secret with an `Authorization` header.
    pub auth_header_secret: Option<String>,
    /// Request headers, lower-case names, sorted.
    pub headers: Vec<(String, String)>,
    /// Detached signature: keys and signature.
    pub signature: Option<(String, String)>,
}

/// `local://`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Local {
    /// The folder's name on the client.
    pub name: String,
    /// The session that has it; any of the build's when `None`.
    pub session: Option<String>,
    /// Makes the op unique to one client.
    pub unique: Option<String>,
    /// Patterns to include; all when empty.
    pub include: Vec<String>,
    /// Patterns to leave out.
    pub exclude: Vec<String>,
    /// Paths whose symlinks are followed.
    pub follow_paths: Vec<String>,
    /// Names the copy that transfers update.
    pub shared_key_hint: String,
    /// Send every file again.
    pub differ_none: bool,
    /// Transfer no content but that of these paths.
    pub metadata_only: Option<Vec<String>>,
}

impl Identifier {
    /// Reads the identifier and attributes of a source op.
    ///
    /// # Errors
    /// When the scheme is unknown, or the rest or an attribute is malformed. Unknown attributes are skipped, as
    /// newer clients send more of them.
    pub fn parse(op: &pb::SourceOp, platform: Option<&pb::Platform>) -> Result<Self, Error> {
        let id = op.identifier.as_str();
        let (scheme, rest) = id.split_once("://").ok_or_else(|| Error::source(id, "no scheme"))?;
        let attrs = Attrs { id, map: &op.attrs };
        let platform = platform.map(platform_from_pb);
        Ok(match scheme {
            "docker-image" => Self::Image(Image::read(rest, &attrs, platform)?),
            "docker-image+blob" => Self::ImageBlob(Blob::read(rest, &attrs)?),
            "oci-layout" => Self::OciLayout(OciLayout::read(rest, &attrs, platform)?),
            "oci-layout+blob" => Self::OciBlob(Blob::read(rest, &attrs)?),
            "local" => Self::Local(Local::read(rest, &attrs)?),
            "git" => Self::Git(Box::new(Git::read(rest, &attrs)?)),
            "http" | "https" => Self::Http(Http::read(&attrs)?),
            _ => return Err(Error::source(id, "unknown scheme")),
        })
    }
}

/// Attributes with the identifier they belong to, for errors.
pub(crate) struct Attrs<'a> {
    pub(crate) id: &'a str,
    map: &'a BTreeMap<String, String>,
}

impl Attrs<'_> {
    pub(crate) fn fail(&self, reason: impl ToString) -> Error {
        Error::source(self.id, reason)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.map.get(name).map(String::as_str)
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|v| !v.is_empty()).map(str::to_owned)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    fn digest(&self, name: &str) -> Result<Option<Digest>, Error> {
        self.get(name).map(|v| Digest::parse(v).map_err(|e| self.fail(format!("{name}: {e}")))).transpose()
    }

    fn list(&self, name: &str) -> Result<Vec<String>, Error> {
        match self.get(name) {
            // Go writes a list that was never made as null.
            Some(json) => serde_json::from_str::<Option<Vec<String>>>(json)
                .map(Option::unwrap_or_default)
                .map_err(|e| self.fail(format!("{name}: {e}"))),
            None => Ok(Vec::new()),
        }
    }

    fn limit(&self, name: &str) -> Result<Option<usize>, Error> {
        match self.get(name).map(str::parse) {
            None => Ok(None),
            Some(Ok(n)) if n > 0 => Ok(Some(n)),
            Some(_) => Err(self.fail(format!("invalid layer limit: {name} must be a number above 0"))),
        }
    }

    /// A number in C's notation: `0644` and `0o644` are octal, `0x1a4` is hexadecimal.
    fn number(&self, name: &str) -> Result<Option<u32>, Error> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let lower = text.to_ascii_lowercase();
        let (digits, radix) = match lower.as_bytes() {
            [b'0', b'x', ..] => (&lower[2..], 16),
            [b'0', b'o', ..] => (&lower[2..], 8),
            [b'0', b'b', ..] => (&lower[2..], 2),
            [b'0', _, ..] => (&lower[1..], 8),
            _ => (lower.as_str(), 10),
        };
        u32::from_str_radix(digits, radix)
            .map(Some)
            .map_err(|_| self.fail(format!("{name} must be a number")))
    }

    fn file(&self) -> Result<FileMeta, Error> {
        Ok(FileMeta {
            filename: self.text(attr::HTTP_FILENAME),
            mode: self.number(attr::HTTP_PERM)?.filter(|&m| m != 0),
            uid: self.number(attr::HTTP_UID)?.unwrap_or(0),
            gid: self.number(attr::HTTP_GID)?.unwrap_or(0),
        })
    }

    fn reference(&self, rest: &str) -> Result<Reference, Error> {
        Reference::parse(rest).map_err(|e| self.fail(e))
    }
}

impl Image {
    fn read(rest: &str, attrs: &Attrs<'_>, platform: Option<Platform>) -> Result<Self, Error> {
        const RECORD_TYPES: &[&str] =
            &["internal", "frontend", "source.local", "source.git.checkout", "exec.cachemount", "regular"];
        let record_type = attrs.text(attr::IMAGE_RECORD_TYPE);
        if record_type.as_deref().is_some_and(|t| !RECORD_TYPES.contains(&t)) {
            return Err(attrs.fail("unknown record type"));
        }
        Ok(Self {
            reference: attrs.reference(rest)?.with_default_tag(),
            platform,
            resolve_mode: ResolveMode::parse(attrs.get(attr::IMAGE_RESOLVE_MODE).unwrap_or_default())?,
            record_type,
            layer_limit: attrs.limit(attr::IMAGE_LAYER_LIMIT)?,
            checksum: attrs.digest(attr::IMAGE_CHECKSUM)?,
        })
    }
}

impl OciLayout {
    fn read(rest: &str, attrs: &Attrs<'_>, platform: Option<Platform>) -> Result<Self, Error> {
        let reference = attrs.reference(rest)?;
        if reference.tag().is_none() && reference.digest().is_none() {
            return Err(attrs.fail("a tag or a digest is required"));
        }
        Ok(Self {
            reference,
            platform,
            session: attrs.text(attr::OCI_SESSION),
            store: attrs.text(attr::OCI_STORE),
            layer_limit: attrs.limit(attr::OCI_LAYER_LIMIT)?,
        })
    }
}

impl Blob {
    fn read(rest: &str, attrs: &Attrs<'_>) -> Result<Self, Error> {
        let reference = attrs.reference(rest)?;
        if reference.tag().is_some() {
            return Err(attrs.fail("a blob is named by its digest, not by a tag"));
        }
        let digest = reference.digest().cloned().ok_or_else(|| attrs.fail("a digest is required"))?;
        Ok(Self {
            reference,
            digest,
            file: attrs.file()?,
            session: attrs.text(attr::OCI_SESSION),
            store: attrs.text(attr::OCI_STORE),
        })
    }
}

impl Local {
    fn read(rest: &str, attrs: &Attrs<'_>) -> Result<Self, Error> {
        let (mut name, mut session) = (rest.to_owned(), attrs.text(attr::LOCAL_SESSION));
        if let Some((prefix, id)) = session.as_deref().and_then(|s| s.split_once(':')) {
            name = format!("{prefix}-{name}");
            session = Some(id.to_owned());
        }
        let metadata_only = match attrs.get(attr::LOCAL_METADATA_TRANSFER) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => None,
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => {
                Some(attrs.list(attr::LOCAL_METADATA_TRANSFER_EXCLUDE)?)
            }
            Some(_) => return Err(attrs.fail("local.metadatatransfer must be true or false")),
        };
        Ok(Self {
            name,
            session,
            unique: attrs.text(attr::LOCAL_UNIQUE),
            include: attrs.list(attr::LOCAL_INCLUDE)?,
            exclude: attrs.list(attr::LOCAL_EXCLUDE)?,
            follow_paths: attrs.list(attr::LOCAL_FOLLOW_PATHS)?,
            shared_key_hint: attrs.text(attr::LOCAL_SHARED_KEY_HINT).unwrap_or_default(),
            differ_none: attrs.get(attr::LOCAL_DIFFER) == Some(attr::LOCAL_DIFFER_NONE),
            metadata_only,
        })
    }
}

impl Http {
    fn read(attrs: &Attrs<'_>) -> Result<Self, Error> {
        let header = |(name, value): (&String, &String)| {
            let name = name.strip_prefix(attr::HTTP_HEADER_PREFIX)?.to_ascii_lowercase();
            matches!(name.as_str(), "accept" | "user-agent").then(|| (name, value.clone()))
        };
        let mut headers: Vec<_> = attrs.map.iter().filter_map(header).collect();
        headers.sort();
        let signature = match (attrs.text(attr::HTTP_SIG_PUBKEY), attrs.text(attr::HTTP_SIG)) {
            (Some(key), Some(sig)) => Some((key, sig)),
            (None, None) => None,
            _ => return Err(attrs.fail("signature and public key must be given together")),
        };
        Ok(Self {
            url: attrs.id.to_owned(),
            checksum: attrs.digest(attr::HTTP_CHECKSUM)?,
            file: attrs.file()?,
            auth_header_secret: attrs.text(attr::HTTP_AUTH_HEADER_SECRET),
            headers,
            signature,
        })
    }
}

#[cfg(test)]
mod tests;
