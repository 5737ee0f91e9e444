//! In-toto statements, made from attestations and read from bundles.

use std::{collections::BTreeMap, path::Path};

use kiln_fstree::Root;
use kiln_oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AboutWhom, Attestation, Content, PROVENANCE};
use crate::error::{Error, Result, blocking};

/// The largest statement or predicate, in bytes.
const MAX: u64 = 40 << 20;

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// Something that a statement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subject {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) digest: BTreeMap<String, String>,
}

impl Subject {
    pub(crate) fn new(name: impl Into<String>, digest: &Digest) -> Self {
        let digest = [(digest.algorithm().as_str().to_owned(), digest.hex().to_owned())].into();
        Subject { name: name.into(), digest }
    }
}

/// A whole statement, in the order of fields in which it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Statement {
    #[serde(rename = "_type", default)]
    pub(crate) kind: String,
    #[serde(rename = "predicateType", default)]
    pub(crate) predicate_type: String,
    /// Go writes a list that was never made as null.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) subject: Vec<Subject>,
    #[serde(default)]
    pub(crate) predicate: Value,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Subject>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Replaces bundles by the statements in them, and puts the main SBOM first.
///
/// # Errors
///
/// [`Error::Result`] for provenance that a frontend made and for bundles that hold something else than statements.
pub(crate) async fn unbundle(attestations: &[Attestation]) -> Result<Vec<Attestation>> {
    let mut all = Vec::with_capacity(attestations.len());
    for attestation in attestations {
        match (&attestation.content, attestation.bundle) {
            (Content::File(tree), true) => {
                let root = tree.open().await.map_err(Error::of_ref("open an attestation bundle"))?;
                let bundle = attestation.clone();
                all.extend(blocking(move || read_bundle(&root, &bundle)).await?);
            }
            (Content::Bytes(_) | Content::Later(_), true) => {
                return Err(Error::Result("an attestation bundle has no tree".into()));
            }
            (Content::File(_), false) if attestation.predicate_type.starts_with(PROVENANCE) => {
                return Err(Error::Result("a frontend may not set provenance attestations".into()));
            }
            _ => all.push(attestation.clone()),
        }
    }
    // Stable: the others keep their order.
    all.sort_by_key(|attestation| !attestation.is_main_sbom(&attestation.path));
    Ok(all)
}

fn read_bundle(root: &Root, bundle: &Attestation) -> Result<Vec<Attestation>> {
    let mut found = Vec::new();
    let mut entries = root.list(&bundle.path)?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let path = Path::new(&bundle.path).join(&entry.name);
        let shown = path.display().to_string();
        let bytes = root.read(&path, MAX)?;
        let statement: Statement = serde_json::from_slice(&bytes).map_err(Error::json(&shown))?;
        let wrong = |what: &str| Error::Result(format!("attestation {shown} {what}"));
        if statement.predicate_type.starts_with(PROVENANCE) {
            return Err(wrong("is provenance, which a frontend may not set"));
        }
        if !bundle.predicate_type.is_empty() && statement.predicate_type != bundle.predicate_type {
            return Err(wrong("is not of the type that its bundle promises"));
        }
        let predicate = kiln_oci::gojson::to_vec(&statement.predicate).map_err(Error::json(&shown))?;
        let subjects = statement.subject.into_iter();
        found.push(Attestation {
            bundle: false,
            path: shown,
            content: Content::Bytes(predicate.into()),
            predicate_type: statement.predicate_type,
            subjects: subjects.map(|s| AboutWhom::Other { name: s.name, digests: s.digest }).collect(),
            metadata: bundle.metadata.clone(),
        });
    }
    Ok(found)
}

/// Makes statements of unbundled attestations; `output` is what "the output itself" stands for.
///
/// # Errors
///
/// If a predicate cannot be read or is no JSON.
pub(crate) async fn statements(attestations: &[Attestation], output: &[Subject]) -> Result<Vec<Statement>> {
    let mut made = Vec::with_capacity(attestations.len());
    for attestation in attestations {
        let predicate = read_predicate(attestation).await?;
        made.push(Statement {
            kind: STATEMENT_TYPE.to_owned(),
            predicate_type: attestation.predicate_type.clone(),
            subject: subjects(&attestation.subjects, output),
            predicate,
        });
    }
    Ok(made)
}

async fn read_predicate(attestation: &Attestation) -> Result<Value> {
    let bytes = match &attestation.content {
        Content::Bytes(bytes) => bytes.to_vec(),
        Content::Later(make) => make().await.map_err(Error::of_ref("make an attestation"))?.to_vec(),
        Content::File(tree) => {
            let root = tree.open().await.map_err(Error::of_ref("open an attestation"))?;
            let path = attestation.path.clone();
            blocking(move || Ok(root.read(&path, MAX)?)).await?
        }
    };
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(Error::json(&attestation.path))
}

fn subjects(about: &[AboutWhom], output: &[Subject]) -> Vec<Subject> {
    let itself = [AboutWhom::Itself { name: String::new() }];
    let about = if about.is_empty() { &itself[..] } else { about };
    let mut all = Vec::new();
    for whom in about {
        match whom {
            AboutWhom::Itself { name } => {
                for subject in output {
                    all.push(subject.clone());
                    if !name.is_empty() {
                        all.push(Subject { name: name.clone(), digest: subject.digest.clone() });
                    }
                }
            }
            AboutWhom::Other { name, digests } => {
                let name = if name.is_empty() { "_".to_owned() } else { name.clone() };
                all.push(Subject { name, digest: digests.clone() });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attestation::SBOM_CORE;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    #[test]
    fn a_statement_is_written_as_others_write_it() {
        let attestation =
            Attestation::generated("p.json", "https://slsa.dev/provenance/v1", r#"{"a":"<x>"}"#, true);
        let output = [Subject::new("pkg:docker/x", &Digest::sha256(b""))];
        let made = block_on(statements(&[attestation], &output)).expect("statements");
        let json = kiln_oci::gojson::to_string(&made[0]).expect("json");
        let hex = Digest::sha256(b"").hex().to_owned();
        assert_eq!(
            json,
            format!(
                r#"{{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1","subject":[{{"name":"pkg:docker/x","digest":{{"sha256":"{hex}"}}}}],"predicate":{{"a":"\u003cx\u003e"}}}}"#
            )
        );
    }

    #[test]
    fn subjects_are_the_output_its_other_names_and_others() {
        let output = [Subject::new("o", &Digest::sha256(b"o"))];
        let other = AboutWhom::Other { name: String::new(), digests: [("sha1".into(), "aa".into())].into() };
        let names =
            |about: &[AboutWhom]| subjects(about, &output).into_iter().map(|s| s.name).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["o"]);
        assert_eq!(names(&[AboutWhom::Itself { name: "n".into() }, other]), ["o", "n", "_"]);
    }

    #[test]
    fn the_main_sbom_goes_first() {
        let mut core = Attestation::generated("sbom.spdx.json", "t", "{}", true);
        core.metadata.insert(SBOM_CORE.into(), b"sbom".to_vec());
        let other = Attestation::generated("a.json", "t", "{}", true);
        let sorted = block_on(unbundle(&[other, core])).expect("unbundle");
        assert_eq!(sorted[0].path, "sbom.spdx.json");
    }
}
