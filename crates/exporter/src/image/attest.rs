//! Attestation manifests: the statements about one image, in the same index.

use kiln_oci::{Descriptor, Digest, ImageConfig, Manifest, Platform, gojson, media_type};

use super::{Image, Writer};
use crate::{
    attestation::{Attestation, Subject, statements, unbundle},
    error::{Error, Result},
};

const ARTIFACT_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

impl Writer<'_> {
    /// Writes the statements about an image and the manifest that holds them.
    pub(super) async fn attestation_manifest(
        &mut self,
        image: &Image,
        attestations: &[Attestation],
        subjects: &[Subject],
    ) -> Result<Descriptor> {
        let target = &image.manifest;
        let attestations = unbundle(attestations).await?;
        let mut layers = Vec::new();
        let statements = statements(&attestations, subjects).await?;
        for (attestation, mut statement) in attestations.iter().zip(statements) {
            self.tell_layers(image, attestation, &mut statement.predicate).await?;
            let json = gojson::to_vec(&statement).map_err(Error::json("a statement"))?;
            let mut layer = Descriptor::of(media_type::IN_TOTO, &json);
            let step = format!("exporting attestation {}", layer.digest);
            self.write(&layer, json, &step).await?;
            layer.annotations.insert(PREDICATE_TYPE.into(), statement.predicate_type);
            layers.push(layer);
        }
        let unknown = Platform::new("unknown", "unknown");
        let (config, json) = if self.options.oci_artifact() {
            let mut config = Descriptor::of(media_type::OCI_EMPTY, b"{}");
            config.data = b"{}".to_vec();
            (config, b"{}".to_vec())
        } else {
            let mut image = ImageConfig::empty(&unknown);
            image.rootfs.diff_ids = layers.iter().map(|layer| layer.digest.clone()).collect::<Vec<Digest>>();
            let json = image.encode();
            (Descriptor::of(media_type::OCI_CONFIG, &json), json)
        };
        let step = format!("exporting attestation config {}", config.digest);
        self.write(&config, json, &step).await?;
        let mut manifest = Manifest::new(media_type::OCI_MANIFEST, config, layers);
        if self.options.oci_artifact() {
            manifest.artifact_type = ARTIFACT_TYPE.to_owned();
            let subject = Descriptor::new(target.media_type.clone(), target.digest.clone(), target.size);
            manifest.subject = Some(subject);
        }
        let json = manifest.encode();
        let mut descriptor = Descriptor::of(media_type::OCI_MANIFEST, &json);
        let step = format!("exporting attestation manifest {}", descriptor.digest);
        self.write(&descriptor, json, &step).await?;
        descriptor.annotations.insert(REFERENCE_TYPE.into(), "attestation-manifest".into());
        descriptor.annotations.insert(REFERENCE_DIGEST.into(), target.digest.to_string());
        descriptor.platform = Some(unknown);
        Ok(descriptor)
    }
}
