//! `git://` sources.

use kiln_oci::{Algorithm, Reference};

use super::Attrs;
use super::git_url::{GitUrl, is_commit_sha, is_git_transport};
use crate::{Error, attr};

/// Which modification times the files of a checkout get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GitMtime {
    /// That of the checkout.
    #[default]
    Checkout,
    /// That of the commit.
    Commit,
}

/// How to check the signature of a commit or tag.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitSignature {
    /// Armored keys.
    pub public_key: String,
    /// Expired keys do not count.
    pub reject_expired: bool,
    /// The tag itself must be signed.
    pub require_signed_tag: bool,
    /// Look at the commit even if the tag is signed.
    pub ignore_signed_tag: bool,
}

/// `git://`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Git {
    /// What git is given as remote.
    pub remote: String,
    /// Branch, tag or commit; the remote's default when empty.
    pub reference: String,
    /// Folder within the repository; all of it when empty.
    pub subdir: String,
    /// The commit (or a prefix of it) that must come out.
    pub checksum: Option<String>,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Id of the secret with an access token.
    pub auth_token_secret: Option<String>,
    /// Id of the secret with an `Authorization` header.
    pub auth_header_secret: Option<String>,
    /// Id of the forwarded agent.
    pub mount_ssh_sock: Option<String>,
    /// Lines of a `known_hosts` file.
    pub known_ssh_hosts: Option<String>,
    /// Leave submodules out.
    pub skip_submodules: bool,
    /// Times of files.
    pub mtime: GitMtime,
    /// Fetch the checksum's commit whatever the ref says now.
    pub fetch_by_commit: bool,
    /// Take the history from this blob.
    pub bundle: Option<String>,
    /// The session that has the blob.
    pub bundle_session: Option<String>,
    /// The content store that has the blob.
    pub bundle_store: Option<String>,
    /// Make a bundle rather than a work tree.
    pub checkout_bundle: bool,
    /// Check a signature.
    pub signature: Option<GitSignature>,
}

impl Git {
    pub(super) fn read(rest: &str, attrs: &Attrs<'_>) -> Result<Self, Error> {
        let url = GitUrl::parse(&with_scheme(rest)).map_err(|e| attrs.fail(e))?;
        let git = Self {
            remote: attrs.get(attr::GIT_FULL_URL).map_or(url.remote, with_scheme),
            reference: url.reference,
            subdir: url.subdir,
            checksum: attrs.text(attr::GIT_CHECKSUM),
            keep_git_dir: attrs.flag(attr::GIT_KEEP_DIR),
            auth_token_secret: attrs.text(attr::GIT_AUTH_TOKEN_SECRET),
            auth_header_secret: attrs.text(attr::GIT_AUTH_HEADER_SECRET),
            mount_ssh_sock: attrs.text(attr::GIT_MOUNT_SSH_SOCK),
            known_ssh_hosts: attrs.text(attr::GIT_KNOWN_SSH_HOSTS),
            skip_submodules: attrs.flag(attr::GIT_SKIP_SUBMODULES),
            mtime: match attrs.get(attr::GIT_MTIME) {
                None | Some("" | "checkout") => GitMtime::Checkout,
                Some("commit") => GitMtime::Commit,
                Some(_) => return Err(attrs.fail("git.mtime must be checkout or commit")),
            },
            fetch_by_commit: attrs.flag(attr::GIT_FETCH_BY_COMMIT),
            bundle: attrs.text(attr::GIT_BUNDLE),
            bundle_session: attrs.text(attr::OCI_SESSION),
            bundle_store: attrs.text(attr::OCI_STORE),
            checkout_bundle: attrs.flag(attr::GIT_CHECKOUT_BUNDLE),
            signature: signature(attrs),
        };
        git.check(attrs)?;
        Ok(git)
    }

    /// Git takes arguments that begin with a dash for options; nothing that a user names may.
    fn check(&self, attrs: &Attrs<'_>) -> Result<(), Error> {
        let dash = [&self.remote, &self.reference].into_iter().any(|s| s.starts_with('-'));
        let control =
            [&self.remote, &self.reference].into_iter().any(|s| s.bytes().any(|b| b.is_ascii_control()));
        if dash || control {
            return Err(
                attrs.fail("a git URL or reference must not begin with '-' or hold control characters")
            );
        }
        if let Some(bundle) = &self.bundle {
            check_bundle(bundle).map_err(|e| attrs.fail(e))?;
            let Some(checksum) = &self.checksum else {
                return Err(attrs.fail("git.bundle requires git.checksum to be set"));
            };
            if is_commit_sha(&self.reference) && !self.reference.starts_with(checksum.as_str()) {
                return Err(
                    attrs.fail(format!("expected checksum to match {checksum}, got {}", self.reference))
                );
            }
        }
        if self.checkout_bundle && self.keep_git_dir {
            return Err(attrs.fail("git.checkoutbundle is incompatible with git.keepgitdir"));
        }
        if self.checkout_bundle && !self.subdir.is_empty() {
            return Err(attrs.fail("git.checkoutbundle is incompatible with git.subdir"));
        }
        Ok(())
    }
}

fn with_scheme(s: &str) -> String {
    if is_git_transport(s) { s.to_owned() } else { format!("https://{s}") }
}

fn signature(attrs: &Attrs<'_>) -> Option<GitSignature> {
    let signature = GitSignature {
        public_key: attrs.text(attr::GIT_SIG_PUBKEY).unwrap_or_default(),
        reject_expired: attrs.flag(attr::GIT_SIG_REJECT_EXPIRED),
        require_signed_tag: attrs.flag(attr::GIT_SIG_REQUIRE_TAG),
        ignore_signed_tag: attrs.flag(attr::GIT_SIG_IGNORE_TAG),
    };
    (signature != GitSignature::default()).then_some(signature)
}

fn check_bundle(locator: &str) -> Result<(), String> {
    let (scheme, rest) = locator.split_once("://").ok_or("git.bundle has no scheme")?;
    if !matches!(scheme, "docker-image+blob" | "oci-layout+blob") {
        return Err("git.bundle must begin with docker-image+blob:// or oci-layout+blob://".into());
    }
    let reference = Reference::parse(rest).map_err(|e| format!("git.bundle: {e}"))?;
    match reference.digest().map(kiln_oci::Digest::algorithm) {
        Some(Algorithm::Sha256) => Ok(()),
        _ => Err("git.bundle must have a sha256 digest".into()),
    }
}
