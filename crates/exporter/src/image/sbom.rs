//! SBOMs (SPDX 2.3, JSON) that say of each file in which layer it came to be.
//!
//! The comment of a file becomes `layerID: sha256:…`, the digest of the blob of the topmost layer that holds it. Comments that are
//! there stay. Only the main SBOM of an image is told: those beside it are about other trees.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufReader,
    path::Path,
};

use kiln_layer::{decompress, tar::TarReader};
use kiln_oci::Digest;
use serde_json::Value;

use super::{Image, Writer};
use crate::{
    attestation::Attestation,
    error::{Error, Result, blocking},
};

const SPDX: &str = "https://spdx.dev/Document";
const CREATOR: &str = concat!("Tool: kiln-", env!("CARGO_PKG_VERSION"));

impl Writer<'_> {
    /// Tells the predicate of `attestation` about the layers of `image`, if it is the image's SBOM.
    ///
    /// # Errors
    /// If a layer cannot be fetched or read.
    pub(super) async fn tell_layers(
        &self,
        image: &Image,
        attestation: &Attestation,
        predicate: &mut Value,
    ) -> Result<()> {
        if !is_sbom_of_image(attestation) {
            return Ok(());
        }
        let mut wanted = files(predicate);
        let mut found = BTreeMap::new();
        let Some(tree) = &image.tree else { return Ok(()) };
        for layer in image.layers.iter().rev() {
            if wanted.is_empty() {
                break;
            }
            tree.fetch(layer).await.map_err(Error::of_ref("fetch a layer that the SBOM tells of"))?;
            let digest = layer.descriptor.digest.clone();
            let blob = self.cx.store.content().blob(&digest)?.into_file();
            let (left, here) = blocking(move || {
                let here = held(blob, &mut wanted)?;
                Ok((wanted, here))
            })
            .await?;
            wanted = left;
            found.extend(here.into_iter().map(|path| (path, digest.clone())));
        }
        comment(predicate, &found);
        Ok(())
    }
}

fn is_sbom_of_image(attestation: &Attestation) -> bool {
    let name = Path::new(&attestation.path).file_name().unwrap_or_default().to_string_lossy();
    attestation.predicate_type == SPDX && attestation.is_main_sbom(&name)
}

/// Takes the paths that an archive of a layer holds out of `wanted`.
fn held(blob: std::fs::File, wanted: &mut BTreeSet<Vec<u8>>) -> Result<BTreeSet<Vec<u8>>> {
    let mut tar = TarReader::new(BufReader::new(decompress(blob)?));
    let mut held = BTreeSet::new();
    while let Some(header) = tar.next_entry()? {
        // The mark of a deleted file has another name than the file.
        held.extend(wanted.take(&clean(&header.path)));
    }
    Ok(held)
}

/// A path without anything that does not tell it from others: no slashes around it, no `.` in it.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|&b| b == b'/').filter(|part| !part.is_empty() && part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

/// The files that have no comment.
fn files(document: &mut Value) -> BTreeSet<Vec<u8>> {
    uncommented(document).map(|(path, _)| path).collect()
}

fn uncommented(document: &mut Value) -> impl Iterator<Item = (Vec<u8>, &mut serde_json::Map<String, Value>)> {
    let files = document.get_mut("files").and_then(Value::as_array_mut).into_iter().flatten();
    files.filter_map(Value::as_object_mut).filter_map(|file| {
        let has_comment = file.get("comment").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        let path = clean(file.get("fileName")?.as_str()?.as_bytes());
        (!has_comment).then_some((path, file))
    })
}

/// Writes down what was found, and by whom.
fn comment(document: &mut Value, found: &BTreeMap<Vec<u8>, Digest>) {
    for (path, file) in uncommented(document) {
        if let Some(layer) = found.get(&path) {
            file.insert("comment".to_owned(), format!("layerID: {layer}").into());
        }
    }
    let info = document.as_object_mut().map(|document| document.entry("creationInfo").or_insert(Value::Null));
    let Some(info) = info else { return };
    if info.is_null() {
        *info = serde_json::json!({});
    }
    let creators = info.as_object_mut().map(|info| info.entry("creators").or_insert(Value::Null));
    match creators {
        Some(Value::Array(creators)) => creators.push(CREATOR.into()),
        Some(creators @ Value::Null) => *creators = serde_json::json!([CREATOR]),
        // Whatever it is, it is not ours to mend.
        Some(_) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_without_comments_get_one() {
        let mut document = json!({
            "files": [
                {"fileName": "/a"},
                {"fileName": "./b/c", "comment": ""},
                {"fileName": "/d", "comment": "mine"},
                {"fileName": "/elsewhere"},
                {"comment": "nameless"},
                "nonsense",
            ],
            "creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Tool: other"]},
        });
        assert_eq!(files(&mut document), [b"a".to_vec(), b"b/c".to_vec(), b"elsewhere".to_vec()].into());
        let layer = Digest::sha256(b"layer");
        comment(&mut document, &[(b"a".to_vec(), layer.clone()), (b"b/c".to_vec(), layer.clone())].into());
        let told = format!("layerID: {layer}");
        assert_eq!(
            document,
            json!({
                "files": [
                    {"fileName": "/a", "comment": told},
                    {"fileName": "./b/c", "comment": told},
                    {"fileName": "/d", "comment": "mine"},
                    {"fileName": "/elsewhere"},
                    {"comment": "nameless"},
                    "nonsense",
                ],
                "creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Tool: other", CREATOR]},
            })
        );
    }

    #[test]
    fn a_document_of_another_kind_stays_as_it_is() {
        for other in
            [json!(null), json!("text"), json!([1]), json!({"creationInfo": {"creators": "me"}, "files": 1})]
        {
            let mut document = other.clone();
            assert!(files(&mut document).is_empty());
            comment(&mut document, &BTreeMap::new());
            if other.is_object() {
                assert_eq!(document, other);
            }
        }
        let mut bare = json!({});
        comment(&mut bare, &BTreeMap::new());
        assert_eq!(bare, json!({"creationInfo": {"creators": [CREATOR]}}));
    }

    #[test]
    fn paths_are_compared_clean() {
        for path in ["a/b", "/a/b", "./a/b", "//a/./b/"] {
            assert_eq!(clean(path.as_bytes()), b"a/b", "{path}");
        }
        assert_eq!(clean(b"/"), b"");
    }
}
