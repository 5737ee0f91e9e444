//! Attestations: signed-or-not statements about a result (in-toto Attestation Framework v1), and where they go.
//!
//! A statement names its subjects by digest and holds a predicate, free JSON of some type:
//!
//! ```text
//! {"_type":"https://in-toto.io/Statement/v1","predicateType":"…","subject":[{"name":"…","digest":{"sha256":"…"}}],
//!  "predicate":{…}}
//! ```

pub mod provenance;
pub(crate) mod purl;
mod statement;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use kiln_proto::gateway;

pub use purl::image_purl;
pub(crate) use statement::{Subject, statements, unbundle};

use crate::{
    error::{Error, RefError, Result},
    source::ResultRef,
};

/// Key of an attestation's metadata: attach it to images, but not to files.
pub const INLINE_ONLY: &str = "inline-only";
/// Key of an attestation's metadata: why it was made.
pub const REASON: &str = "reason";
/// Key of an attestation's metadata: the name of the main SBOM among several.
pub const SBOM_CORE: &str = "sbom-core";

/// The type of SLSA provenance predicates, up to their version. Frontends may not make these.
pub(crate) const PROVENANCE: &str = "https://slsa.dev/provenance/";

/// Makes a predicate.
pub type Maker = Arc<dyn Fn() -> BoxFuture<'static, Result<Bytes, RefError>> + Send + Sync>;

/// Where the predicate is.
#[derive(Clone)]
pub enum Content {
    /// Made by the daemon.
    Bytes(Bytes),
    /// Made by the daemon when it is written: it tells of layers, which exporters make.
    Later(Maker),
    /// A file (of a bundle: a folder of statements) of a tree that the frontend returned.
    File(Arc<dyn ResultRef>),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Content::Later(_) => f.write_str("made later"),
            Content::File(_) => f.write_str("a file"),
        }
    }
}

/// Whom a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AboutWhom {
    /// The output itself.
    Itself {
        /// A further name for it; empty for none.
        name: String,
    },
    /// Something else.
    Other {
        /// Its name.
        name: String,
        /// Its digests, by algorithm.
        digests: BTreeMap<String, String>,
    },
}

/// A statement about a result, or a folder of such.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// A folder of statements, each a whole one, instead of one predicate.
    pub bundle: bool,
    /// Path in the tree; its last part names the file beside local outputs.
    pub path: String,
    /// The predicate, or the bundle.
    pub content: Content,
    /// The predicate's type. Of a bundle: all must have this one, unless it is empty.
    pub predicate_type: String,
    /// The subjects; empty is the output itself.
    pub subjects: Vec<AboutWhom>,
    /// Free values, see the keys of this module.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

impl Attestation {
    /// One made by the daemon about the output, attached inline only unless `everywhere`.
    pub fn generated(
        path: &str,
        predicate_type: &str,
        predicate: impl Into<Bytes>,
        everywhere: bool,
    ) -> Self {
        Self::of_daemon(path, predicate_type, Content::Bytes(predicate.into()), everywhere)
    }

    /// Like [`Attestation::generated`], with a predicate that is made when it is written, once for each output.
    pub fn later(path: &str, predicate_type: &str, predicate: Maker, everywhere: bool) -> Self {
        Self::of_daemon(path, predicate_type, Content::Later(predicate), everywhere)
    }

    fn of_daemon(path: &str, predicate_type: &str, content: Content, everywhere: bool) -> Self {
        let mut metadata = BTreeMap::new();
        if !everywhere {
            metadata.insert(INLINE_ONLY.to_owned(), b"true".to_vec());
        }
        Attestation {
            bundle: false,
            path: path.to_owned(),
            content,
            predicate_type: predicate_type.to_owned(),
            subjects: Vec::new(),
            metadata,
        }
    }

    /// One that a frontend returned with `tree`.
    ///
    /// # Errors
    ///
    /// [`Error::Result`] for incomplete or unknown ones.
    pub fn from_gateway(message: &gateway::Attestation, tree: Option<Arc<dyn ResultRef>>) -> Result<Self> {
        let wrong = |what: &str| Error::Result(format!("attestation {:?} {what}", message.path));
        let bundle = match gateway::AttestationKind::try_from(message.kind) {
            Ok(gateway::AttestationKind::InToto) => false,
            Ok(gateway::AttestationKind::Bundle) => true,
            _ => return Err(wrong("is of an unknown kind")),
        };
        if message.path.is_empty() && !bundle {
            return Err(wrong("has no path"));
        }
        let content = Content::File(tree.ok_or_else(|| wrong("has no content"))?);
        let subjects = message.in_toto_subjects.iter().map(|subject| {
            let name = subject.name.clone();
            match gateway::InTotoSubjectKind::try_from(subject.kind) {
                Ok(gateway::InTotoSubjectKind::Self_) => Ok(AboutWhom::Itself { name }),
                Ok(gateway::InTotoSubjectKind::Raw) => {
                    let split = |d: &String| d.split_once(':').map(|(a, h)| (a.to_owned(), h.to_owned()));
                    let digests: Option<_> = subject.digest.iter().map(split).collect();
                    let digests = digests.ok_or_else(|| wrong("has a subject with an invalid digest"))?;
                    Ok(AboutWhom::Other { name, digests })
                }
                _ => Err(wrong("has a subject of an unknown kind")),
            }
        });
        Ok(Attestation {
            bundle,
            path: message.path.clone(),
            content,
            predicate_type: message.in_toto_predicate_type.clone(),
            subjects: subjects.collect::<Result<_>>()?,
            metadata: message.metadata.iter().map(|(key, value)| (key.clone(), value.to_vec())).collect(),
        })
    }

    /// Whether a file called `name` is the main one of several SBOMs: what stands before its first dot says so.
    pub(crate) fn is_main_sbom(&self, name: &str) -> bool {
        let stem = name.split('.').next().unwrap_or_default();
        self.metadata.get(SBOM_CORE).is_some_and(|core| core == stem.as_bytes())
    }

    /// Whether it goes to images only.
    pub fn is_inline_only(&self) -> bool {
        self.metadata.get(INLINE_ONLY).is_some_and(|value| value == b"true")
    }
}
