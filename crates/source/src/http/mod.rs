//! Files from the web.
//!
//! A URL without a checksum is asked for at every build. What came is kept with the server's entity tag, so that the next build
//! asks with `HEAD` first and takes the kept tree when the tag is still the same:
//!
//! ```text
//! ref key    http:<sha256 of URL, name, mode, owner, headers>
//! ref value  http = {"checksum":"sha256:…","etag":"…","modified":seconds}
//! ```
//!
//! With a checksum nobody is asked, and the file is fetched only when no build has it.

mod date;
mod name;
mod request;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use kiln_llb::source::Http;
use kiln_oci::{Algorithm, Digest, gojson};
use kiln_worker::ImmutableRef;
use serde::{Deserialize, Serialize};

use crate::{Asking, Error, SourceKey, Sources, builds::Fact, file::NewFile};

pub(crate) use name::safe_name;
use request::{Answer, Requests};
pub(crate) use request::{secret, shown};

/// The value of a ref with what its server said.
const VALUE: &str = "http";

/// What a URL turned out to be.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) digest: Digest,
    pub(crate) filename: String,
    /// Seconds since 1970, as the server tells.
    pub(crate) modified: Option<i64>,
    /// The file, if it had to be fetched.
    pub(crate) tree: Option<ImmutableRef>,
}

/// What is kept with a tree.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    checksum: Digest,
    /// Without the mark of a weak one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modified: Option<i64>,
}

/// A file from the web as a source.
#[derive(Debug)]
pub(crate) struct HttpSource {
    http: Http,
    /// What its key was made from.
    resolved: Mutex<Option<Arc<Resolved>>>,
}

impl HttpSource {
    pub(crate) fn new(http: Http) -> Result<Self, Error> {
        if http.signature.is_some() {
            let feature = "checking a signature (http.sig)";
            return Err(Error::Feature { identifier: shown(&http.url), feature });
        }
        Ok(Self { http, resolved: Mutex::default() })
    }

    pub(crate) async fn key(&self, sources: &Sources, asking: &Asking) -> Result<SourceKey, Error> {
        let resolved = self.resolve(sources, asking).await?;
        Ok(SourceKey::only(self.cache_key(&resolved)?, resolved.digest.to_string()))
    }

    /// Digest, name and time; with a checksum out of what is known.
    pub(crate) async fn resolve(&self, sources: &Sources, asking: &Asking) -> Result<Arc<Resolved>, Error> {
        if let Some(checksum) = &self.http.checksum {
            return Ok(Arc::new(Resolved {
                digest: checksum.clone(),
                filename: self.name(None),
                modified: None,
                tree: None,
            }));
        }
        self.fetched(sources, asking).await
    }

    /// As [`HttpSource::resolve`], with the file.
    pub(crate) async fn fetched(&self, sources: &Sources, asking: &Asking) -> Result<Arc<Resolved>, Error> {
        let mine = || self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolved) = mine().clone() {
            return Ok(resolved);
        }
        let what = self.own_key()?;
        let alone = sources.builds.alone(&what).await;
        let fits = |resolved: &Resolved| self.http.checksum.as_ref().is_none_or(|c| *c == resolved.digest);
        let resolved = match sources.builds.known(&asking.sessions, &what) {
            Some(Fact::Http(resolved)) if fits(&resolved) => resolved,
            _ => {
                let resolved = Arc::new(self.ask(sources, asking, &what).await?);
                sources.builds.learn(&asking.sessions, &what, &Fact::Http(resolved.clone()));
                resolved
            }
        };
        drop(alone);
        *mine() = Some(resolved.clone());
        Ok(resolved)
    }

    pub(crate) async fn snapshot(&self, sources: &Sources, asking: &Asking) -> Result<ImmutableRef, Error> {
        let resolved = self.fetched(sources, asking).await?;
        // What was fetched always has a tree.
        resolved.tree.clone().ok_or_else(|| self.problem("no file came"))
    }

    async fn ask(&self, sources: &Sources, asking: &Asking, what: &str) -> Result<Resolved, Error> {
        let kept = self.kept(sources, what).await?;
        if let Some(checksum) = &self.http.checksum
            && let Some((tree, kept)) = kept.iter().find(|(_, kept)| kept.checksum == *checksum)
        {
            return Ok(self.take(tree, kept, None));
        }
        let requests = Requests::new(&self.http, sources, asking).await?;
        // With a checksum, an older file is of no use.
        let usable = |k: &Kept| k.checksum.algorithm() == Algorithm::Sha256 && self.http.checksum.is_none();
        let known: Vec<_> = kept.iter().filter(|(_, k)| k.etag.is_some() && usable(k)).collect();
        let tags: Vec<String> = known.iter().filter_map(|(_, k)| k.etag.clone()).collect();
        let by_tag =
            |tag: Option<&str>| known.iter().find(|(_, k)| tag.is_some() && k.etag.as_deref() == tag);
        // Servers that send tags but do not look at those of a request are met by asking for the tag alone first.
        if !tags.is_empty()
            && let Some(answer) = requests.head(&tags).await
            && let Some((tree, kept)) = by_tag(answer.etag.as_deref())
        {
            return Ok(self.take(tree, kept, answer.disposition.as_deref()));
        }
        let (answer, body) = requests.get(&tags).await?;
        let Some(body) = body else {
            let (tree, kept) = by_tag(answer.etag.as_deref())
                .ok_or_else(|| self.problem("the server says \"not modified\" of something unknown"))?;
            return Ok(self.take(tree, kept, answer.disposition.as_deref()));
        };
        self.save(sources, what, &answer, body).await
    }

    fn take(&self, tree: &ImmutableRef, kept: &Kept, disposition: Option<&str>) -> Resolved {
        Resolved {
            digest: kept.checksum.clone(),
            filename: self.name(disposition),
            modified: kept.modified,
            tree: Some(tree.clone()),
        }
    }

    async fn save(
        &self,
        sources: &Sources,
        what: &str,
        answer: &Answer,
        body: impl Stream<Item = Result<Bytes, Error>>,
    ) -> Result<Resolved, Error> {
        let (http, shown) = (&self.http, shown(&self.http.url));
        let filename = self.name(answer.disposition.as_deref());
        let file = NewFile {
            origin: shown.clone(),
            name: filename.clone(),
            meta: http.file.clone(),
            mtime: answer.modified.unwrap_or(0),
            gzip: answer.gzip,
            algorithm: http.checksum.as_ref().map_or(Algorithm::Sha256, Digest::algorithm),
        };
        let (tree, digest) = file.receive(&sources.worker, format!("http url {shown}"), body).await?;
        if let Some(expected) = &http.checksum
            && *expected != digest
        {
            return Err(Error::Mismatch { name: shown, expected: expected.clone(), got: digest });
        }
        let kept = Kept { checksum: digest.clone(), etag: answer.etag.clone(), modified: answer.modified };
        let (json, key, labelled) = (serde_json::to_vec(&kept)?, what.to_owned(), tree.clone());
        tokio::task::spawn_blocking(move || {
            labelled.set_value(VALUE, json)?;
            labelled.add_key(&key)
        })
        .await??;
        Ok(Resolved { digest, filename, modified: answer.modified, tree: Some(tree) })
    }

    /// What earlier builds have had of this URL.
    async fn kept(&self, sources: &Sources, what: &str) -> Result<Vec<(ImmutableRef, Kept)>, Error> {
        let (worker, what) = (sources.worker.clone(), what.to_owned());
        let find = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            for id in worker.find(&what)? {
                // One that is being pruned is as good as gone.
                let Ok(tree) = worker.get(&id) else { continue };
                let Some(value) = tree.value(VALUE)? else { continue };
                if let Ok(kept) = serde_json::from_slice(&value) {
                    found.push((tree, kept));
                }
            }
            Ok::<_, Error>(found)
        });
        find.await?
    }

    /// The URL without credentials.
    pub(crate) fn shown(&self) -> String {
        shown(&self.http.url)
    }

    fn name(&self, disposition: Option<&str>) -> String {
        name::file_name(&self.http.url, self.http.file.filename.as_deref(), disposition)
    }

    fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Http { url: shown(&self.http.url), problem: problem.into() }
    }

    /// Under which trees of this URL are found; never seen outside.
    fn own_key(&self) -> Result<String, Error> {
        let (http, file) = (&self.http, &self.http.file);
        let json = serde_json::to_vec(&(
            &http.url,
            &file.filename,
            (file.mode, file.uid, file.gid),
            &http.auth_header_secret,
            &http.headers,
        ))?;
        Ok(format!("http:{}", Digest::sha256(json)))
    }

    /// BuildKit's cache key of a file from the web.
    fn cache_key(&self, resolved: &Resolved) -> Result<String, Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Header<'a> {
            name: String,
            value: &'a str,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Key<'a> {
            filename: &'a str,
            perm: u32,
            #[serde(rename = "UID")]
            uid: u32,
            #[serde(rename = "GID")]
            gid: u32,
            checksum: &'a Digest,
            #[serde(skip_serializing_if = "String::is_empty")]
            last_mod_time: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            auth_header_secret: Option<&'a str>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            header: Vec<Header<'a>>,
        }
        let file = &self.http.file;
        let header = |(name, value): &'_ (String, String)| (request::canonical(name), value.clone());
        let headers: Vec<_> = self.http.headers.iter().map(header).collect();
        let json = gojson::to_vec(&Key {
            filename: &resolved.filename,
            perm: file.mode.unwrap_or(0),
            uid: file.uid,
            gid: file.gid,
            checksum: &resolved.digest,
            last_mod_time: resolved.modified.map(date::format).unwrap_or_default(),
            auth_header_secret: self.http.auth_header_secret.as_deref(),
            header: headers.iter().map(|(name, value)| Header { name: name.clone(), value }).collect(),
        })?;
        Ok(Digest::sha256(json).to_string())
    }
}

/// The bytes of an answer.
type Body = BoxStream<'static, Result<Bytes, Error>>;

fn boxed(stream: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Body {
    stream.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_llb::source::FileMeta;

    fn http() -> Http {
        Http {
            url: "https://example.com/a/file.txt".into(),
            checksum: None,
            file: FileMeta::default(),
            auth_header_secret: None,
            headers: Vec::new(),
            signature: None,
        }
    }

    #[test]
    fn the_cache_key_is_the_digest_of_a_known_document() {
        let resolved = Resolved {
            digest: Digest::sha256("x"),
            filename: "file.txt".into(),
            modified: Some(784_111_777),
            tree: None,
        };
        let digest = &resolved.digest;
        let source = HttpSource::new(http()).unwrap();
        let json = format!(
            r#"{{"Filename":"file.txt","Perm":0,"UID":0,"GID":0,"Checksum":"{digest}","LastModTime":"Sun, 06 Nov 1994 08:49:37 GMT"}}"#
        );
        assert_eq!(source.cache_key(&resolved).unwrap(), Digest::sha256(json).to_string());

        let mut http = http();
        http.file = FileMeta { filename: None, mode: Some(0o755), uid: 1, gid: 2 };
        http.auth_header_secret = Some("s".into());
        http.headers = vec![("accept".into(), "a&b".into()), ("user-agent".into(), "me".into())];
        let resolved = Resolved { modified: None, ..resolved.clone() };
        let json = format!(
            concat!(
                r#"{{"Filename":"file.txt","Perm":493,"UID":1,"GID":2,"Checksum":"{}","AuthHeaderSecret":"s","#,
                r#""Header":[{{"Name":"Accept","Value":"a\u0026b"}},{{"Name":"User-Agent","Value":"me"}}]}}"#
            ),
            resolved.digest
        );
        let source = HttpSource::new(http).unwrap();
        assert_eq!(source.cache_key(&resolved).unwrap(), Digest::sha256(json).to_string());
    }

    #[test]
    fn signatures_are_refused_by_name() {
        let http = Http { signature: Some(("k".into(), "s".into())), ..http() };
        let error = HttpSource::new(http).unwrap_err().to_string();
        assert!(error.contains("http.sig"), "{error}");
    }
}
