//! What frontends ask about git and web sources before they build.

use std::io::Read as _;

use kiln_llb::source::Identifier;
use kiln_oci::{Algorithm, Digest, Hasher};
use kiln_proto::pb;
use kiln_session::Group;

use crate::{Asking, Error, Sources, git::GitSource, http::HttpSource};

/// The longest text that a checksum may be asked over, beside the file, in bytes.
const MAX_SUFFIX: usize = 4 << 10;

/// What more is wanted than what costs nothing.
#[derive(Clone, Debug, Default)]
pub struct MetadataRequest {
    /// Git: the commit and the tag themselves.
    pub git_objects: bool,
    /// Web: a digest over the file followed by these bytes.
    pub http_checksum: Option<(Algorithm, Vec<u8>)>,
}

/// What a source stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// A repository.
    Git(GitMetadata),
    /// A file from the web.
    Http(HttpMetadata),
}

/// What a ref of a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitMetadata {
    /// What it points to: a commit, or an annotated tag.
    pub checksum: String,
    /// Its full name, or the commit that was asked for.
    pub reference: String,
    /// The commit of an annotated tag.
    pub commit_checksum: Option<String>,
    /// The commit as git stores it, if it was asked for.
    pub commit_object: Option<Vec<u8>>,
    /// The annotated tag as git stores it, if it was asked for and is one.
    pub tag_object: Option<Vec<u8>>,
}

/// What a URL is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpMetadata {
    /// Of the file.
    pub digest: Digest,
    /// The file's name.
    pub filename: String,
    /// Seconds since 1970, as the server tells.
    pub last_modified: Option<i64>,
    /// The checksum that was asked for.
    pub checksum: Option<Digest>,
}

/// When a commit was made, in seconds since 1970, from the commit as git stores it.
#[must_use]
pub fn commit_time(object: &[u8]) -> Option<i64> {
    let mut headers = object.split(|b| *b == b'\n').take_while(|line| !line.is_empty());
    let line = String::from_utf8_lossy(headers.find(|line| line.starts_with(b"committer "))?);
    let mut words = line.rsplit(' ');
    let _zone = words.next()?;
    words.next()?.parse().ok()
}

impl Sources {
    /// What a git or web source stands for now; the builds of `sessions` then mean the same by it. `None` for other kinds.
    ///
    /// # Errors
    /// Those of [`Sources::open`], the server's, the client's.
    pub async fn metadata(
        &self,
        op: &pb::SourceOp,
        sessions: &Group,
        request: &MetadataRequest,
    ) -> Result<Option<Metadata>, Error> {
        let asking = Asking { sessions: sessions.clone(), progress: None };
        match Identifier::parse(op, None)? {
            Identifier::Git(id) => {
                let source = GitSource::new(*id, &op.identifier)?;
                Ok(Some(Metadata::Git(source.metadata(self, &asking, request.git_objects).await?)))
            }
            Identifier::Http(http) => {
                let source = HttpSource::new(http)?;
                Ok(Some(Metadata::Http(self.http_metadata(&source, &asking, request).await?)))
            }
            _ => Ok(None),
        }
    }

    async fn http_metadata(
        &self,
        source: &HttpSource,
        asking: &Asking,
        request: &MetadataRequest,
    ) -> Result<HttpMetadata, Error> {
        let mut resolved = source.resolve(self, asking).await?;
        let mut checksum = None;
        if let Some((algorithm, suffix)) = &request.http_checksum {
            if suffix.len() > MAX_SUFFIX {
                let problem = format!("the suffix of a checksum request has more than {MAX_SUFFIX} bytes");
                return Err(Error::Http { url: source.shown(), problem });
            }
            resolved = source.fetched(self, asking).await?;
            let (tree, name) = (resolved.tree.clone(), resolved.filename.clone());
            let (algorithm, suffix) = (*algorithm, suffix.clone());
            let hash = tokio::task::spawn_blocking(move || {
                let unpacked = tree.as_ref().and_then(kiln_worker::ImmutableRef::unpacked);
                let Some(unpacked) = unpacked else {
                    return Err(Error::Io { what: name, source: std::io::ErrorKind::NotFound.into() });
                };
                let mut file =
                    unpacked.open()?.open_file(&name).map_err(|source| Error::Tree { name, source })?;
                let (mut hasher, mut buffer) = (Hasher::new(algorithm), vec![0; 256 << 10]);
                loop {
                    match file.read(&mut buffer).map_err(Error::io("reading a file from the web"))? {
                        0 => break,
                        read => hasher.update(&buffer[..read]),
                    }
                }
                hasher.update(&suffix);
                Ok(hasher.finish())
            });
            checksum = Some(hash.await??);
        }
        Ok(HttpMetadata {
            digest: resolved.digest.clone(),
            filename: resolved.filename.clone(),
            last_modified: resolved.modified,
            checksum,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_times() {
        let object = "tree x\nparent y\nauthor A <a@b> 1 +0000\ncommitter B C <b@c> 1700000000 -0330\n\ncommitter no\n";
        assert_eq!(commit_time(object.as_bytes()), Some(1_700_000_000));
        assert_eq!(commit_time(b"tree x\n\ncommitter B <b> 1 +0"), None);
    }
}
