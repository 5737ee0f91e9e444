//! What proves something of an image: its attestation manifest, statements in it, and a signature of it.
//!
//! ```text
//! index ─▶ manifest of the platform
//!       ─▶ attestation manifest, annotated with the digest of that ─▶ statements
//!             ▲ refers to it
//!          signature manifest ─▶ bundle
//! ```

use bytes::Bytes;
use futures::future::try_join_all;
use kiln_oci::{Descriptor, Digest, Index, Manifest, Reference, media_type};
use kiln_session::Group;

use super::{Request, Resolver, resolve::Walk};
use crate::Error;

/// Signatures that are looked for, the preferred kind first.
const SIGNATURES: &[&str] =
    &["application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.cosign.artifact.sig.v1+json"];
/// The annotation of a statement's layer with the type of its predicate.
const PREDICATE: &str = "in-toto.io/predicate-type";
/// The most documents that a chain is made of.
const MAX_DOCUMENTS: usize = 32;

/// The documents by which an image is verified.
#[derive(Clone, Debug)]
pub struct AttestationChain {
    /// The index.
    pub root: Digest,
    /// The platform's manifest, which is not among the blobs: nobody needs it for the proof.
    pub image_manifest: Digest,
    /// What is said of it.
    pub attestation_manifest: Option<Digest>,
    /// A signature of that; one at most for now.
    pub signature_manifests: Vec<Digest>,
    /// Index, attestation manifest, statements that were asked for, signature and what it holds.
    pub blobs: Vec<(Descriptor, Bytes)>,
}

impl Resolver {
    /// The attestations of an image, with the statements whose predicates are of these types; `None` for an image without an index.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::NoPlatform`], [`Error::Image`] for documents that make no sense.
    pub async fn attestations(
        &self,
        request: &Request,
        sessions: &Group,
        predicates: &[String],
    ) -> Result<Option<AttestationChain>, Error> {
        let shown = request.shown();
        let bad = |problem: String| Error::Image { reference: shown.to_owned(), problem };
        let reference = Reference::parse(shown).map_err(|e| bad(e.to_string()))?.with_default_tag();
        let place = self.place(request, &reference, sessions);
        let lease = self.lease()?;
        let root = place.resolve(&reference).await?.descriptor;
        if root.media_type != media_type::OCI_INDEX {
            return Ok(None);
        }
        let walk = Walk { resolver: self, place: &place, shown, platform: request.platform(), lease: &lease };
        let content = walk.document(&root, false).await?;
        let index = Index::decode(&content).map_err(|e| bad(format!("index {}: {e}", root.digest)))?;
        let image_manifest = walk.choose(&index)?.digest;
        let mut chain = AttestationChain {
            root: root.digest.clone(),
            image_manifest: image_manifest.clone(),
            attestation_manifest: None,
            signature_manifests: Vec::new(),
            blobs: vec![(root, content)],
        };
        let Some(attestation) = index.manifests.into_iter().find(|d| is_about(d, &image_manifest)) else {
            return Ok(Some(chain));
        };
        let (content, manifest) = read_manifest(&walk, &attestation).await?;
        chain.attestation_manifest = Some(attestation.digest.clone());
        let mut wanted = manifest.layers;
        wanted.retain(|layer| layer.annotations.get(PREDICATE).is_some_and(|kind| predicates.contains(kind)));
        let mut signatures = place.referrers(shown, &attestation.digest).await?;
        chain.blobs.push((attestation, content));
        signatures.retain(|d| SIGNATURES.contains(&d.artifact_type.as_str()));
        signatures.sort_by_key(|d| SIGNATURES.iter().position(|kind| *kind == d.artifact_type));
        if let Some(signature) = signatures.into_iter().next() {
            let (content, manifest) = read_manifest(&walk, &signature).await?;
            chain.signature_manifests.push(signature.digest.clone());
            chain.blobs.push((signature, content));
            wanted.extend(manifest.layers);
        }
        if wanted.len() > MAX_DOCUMENTS {
            return Err(bad(format!("{} attestations; at most {MAX_DOCUMENTS} are read", wanted.len())));
        }
        let read = wanted.iter().map(|blob| walk.document(blob, true));
        let contents = try_join_all(read).await?;
        chain.blobs.extend(wanted.iter().cloned().zip(contents));
        Ok(Some(chain))
    }
}

async fn read_manifest(walk: &Walk<'_>, descriptor: &Descriptor) -> Result<(Bytes, Manifest), Error> {
    let content = walk.document(descriptor, false).await?;
    let manifest =
        Manifest::decode(&content).map_err(|e| walk.bad(format!("manifest {}: {e}", descriptor.digest)))?;
    Ok((content, manifest))
}

/// Whether an entry of an index attests something of the image `digest`.
fn is_about(entry: &Descriptor, digest: &Digest) -> bool {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    annotation("vnd.docker.reference.type") == Some("attestation-manifest")
        && annotation("vnd.docker.reference.digest") == Some(digest.as_str())
}
