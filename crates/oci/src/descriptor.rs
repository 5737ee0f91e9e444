//! Descriptors, manifests and indexes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform, gojson, media_type};

/// The `schemaVersion` of manifests and indexes.
pub const SCHEMA_VERSION: u32 = 2;

/// Names a blob: type, digest, size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is, see [`media_type`].
    pub media_type: String,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes. Whoever reads a blob reads no more than this.
    pub size: u64,
    /// Other places to fetch the blob from.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub urls: Vec<String>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
    /// The blob itself, if it is small and was embedded; base64 on the wire.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "base64_bytes")]
    pub data: Vec<u8>,
    /// In an index: the platform that the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In an index: the kind of artifact that the manifest holds.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub artifact_type: String,
}

impl Descriptor {
    /// A descriptor without the optional fields.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: Vec::new(),
            platform: None,
            artifact_type: String::new(),
        }
    }

    /// The descriptor of `blob`.
    pub fn of(media_type: impl Into<String>, blob: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(blob), blob.len() as u64)
    }
}

/// The manifest of one image or artifact (OCI, or Docker schema 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// [`media_type::OCI_MANIFEST`] or [`media_type::DOCKER_MANIFEST`]; may be missing in old OCI manifests.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub media_type: String,
    /// The kind of artifact, if it is not an image.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub artifact_type: String,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// A manifest of the given parts, with no artifact type, subject or annotations.
    pub fn new(media_type: impl Into<String>, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: media_type.into(),
            artifact_type: String::new(),
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When it is no JSON of that shape (for example an index, or a schema 1 manifest).
    pub fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The bytes that are stored and hashed: Go's indented JSON.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

/// An index (manifest list): one image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// [`media_type::OCI_INDEX`] or [`media_type::DOCKER_INDEX`].
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub media_type: String,
    /// The kind of artifact, if these are not images.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_default")]
    pub artifact_type: String,
    /// The manifests, in order of preference.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of the given manifests.
    pub fn new(media_type: impl Into<String>, manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: media_type.into(),
            artifact_type: String::new(),
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads an index.
    ///
    /// # Errors
    /// When it is no JSON of that shape.
    pub fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The bytes that are stored and hashed: Go's indented JSON.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Is this the index that attestation manifests stand in: some manifest describes another one?
    pub fn has_attestations(&self) -> bool {
        self.manifests.iter().any(|m| m.annotations.contains_key("vnd.docker.reference.type"))
    }
}

/// Manifest and index hold strings, numbers and maps with string keys: encoding them cannot fail.
fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    gojson::to_vec_indent(value).unwrap_or_default()
}

/// Go writes an empty list or map that was never made as `null`.
pub(crate) fn null_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        match Option::<String>::deserialize(d)? {
            Some(text) => STANDARD.decode(text).map_err(serde::de::Error::custom),
            None => Ok(Vec::new()),
        }
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new(media_type::OCI_INDEX, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_omissions_are_gos() {
        let mut config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
        config.data = b"{}".to_vec();
        let text =
            String::from_utf8(Manifest::new(media_type::OCI_MANIFEST, config, vec![]).encode()).unwrap();
        assert_eq!(
            text,
            "{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n  \"config\": {\n    \
             \"mediaType\": \"application/vnd.oci.image.config.v1+json\",\n    \
             \"digest\": \"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\n    \"size\": 2,\n    \
             \"data\": \"e30=\"\n  },\n  \"layers\": []\n}"
        );
        assert_eq!(Manifest::decode(text.as_bytes()).unwrap().config.data, b"{}");
    }

    #[test]
    fn nulls_and_bad_values() {
        let json = r#"{"schemaVersion":2,"manifests":null,"annotations":null}"#;
        assert!(Index::decode(json.as_bytes()).unwrap().manifests.is_empty());
        let json = r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:00","size":2}}"#;
        assert!(Manifest::decode(json.as_bytes()).is_err());
        let digest = Digest::sha256(b"");
        let json =
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{digest}","size":-2}}}}"#);
        assert!(Manifest::decode(json.as_bytes()).is_err());
    }
}
