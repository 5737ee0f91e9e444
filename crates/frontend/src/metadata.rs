//! What git repositories and files of the web stand for, as the gateway's messages tell.

use bytes::Bytes;
use kiln_oci::{Algorithm, Descriptor};
use kiln_proto::{
    gateway::{self, checksum_request::ChecksumAlgo},
    status::WireError,
};
use kiln_source::{GitMetadata, HttpMetadata, Metadata, MetadataRequest, image::AttestationChain};
use tonic::Code;

/// What the request wants of the source.
pub(crate) fn wanted(request: &gateway::ResolveSourceMetaRequest) -> Result<MetadataRequest, WireError> {
    let checksum = request.http.as_ref().and_then(|http| http.checksum_request.as_ref());
    let http_checksum = match checksum {
        None => None,
        Some(checksum) => {
            let algorithm = match ChecksumAlgo::try_from(checksum.algo) {
                Ok(ChecksumAlgo::Sha256) => Algorithm::Sha256,
                Ok(ChecksumAlgo::Sha384) => Algorithm::Sha384,
                Ok(ChecksumAlgo::Sha512) => Algorithm::Sha512,
                Err(_) => {
                    let message = format!("unsupported checksum algorithm {}", checksum.algo);
                    return Err(WireError::new(Code::InvalidArgument, message));
                }
            };
            Some((algorithm, checksum.suffix.to_vec()))
        }
    };
    Ok(MetadataRequest { git_objects: request.git.is_some_and(|git| git.return_object), http_checksum })
}

/// The answer to `request` about `source`.
pub(crate) fn answer(
    request: &gateway::ResolveSourceMetaRequest,
    metadata: Metadata,
) -> gateway::ResolveSourceMetaResponse {
    let mut response =
        gateway::ResolveSourceMetaResponse { source: request.source.clone(), ..Default::default() };
    match metadata {
        Metadata::Git(git) => response.git = Some(of_git(git)),
        Metadata::Http(http) => response.http = Some(of_http(request, http)),
    }
    response
}

/// The documents that verify an image.
pub(crate) fn of_chain(chain: AttestationChain) -> gateway::AttestationChain {
    let blob = |(descriptor, content): (Descriptor, Bytes)| {
        let digest = descriptor.digest.to_string();
        let descriptor = gateway::Descriptor {
            media_type: descriptor.media_type,
            digest: digest.clone(),
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            annotations: descriptor.annotations,
        };
        (digest, gateway::Blob { descriptor: Some(descriptor), data: content })
    };
    gateway::AttestationChain {
        root: chain.root.to_string(),
        image_manifest: chain.image_manifest.to_string(),
        attestation_manifest: chain.attestation_manifest.map(|digest| digest.to_string()).unwrap_or_default(),
        signature_manifests: chain.signature_manifests.iter().map(ToString::to_string).collect(),
        blobs: chain.blobs.into_iter().map(blob).collect(),
    }
}

fn of_git(git: GitMetadata) -> gateway::ResolveSourceGitResponse {
    gateway::ResolveSourceGitResponse {
        checksum: git.checksum,
        r#ref: git.reference,
        commit_checksum: git.commit_checksum.unwrap_or_default(),
        commit_object: git.commit_object.unwrap_or_default().into(),
        tag_object: git.tag_object.unwrap_or_default().into(),
    }
}

fn of_http(
    request: &gateway::ResolveSourceMetaRequest,
    http: HttpMetadata,
) -> gateway::ResolveSourceHttpResponse {
    let asked = request.http.as_ref().and_then(|http| http.checksum_request.as_ref());
    let suffix = asked.map(|asked| asked.suffix.clone()).unwrap_or_default();
    gateway::ResolveSourceHttpResponse {
        checksum: http.digest.to_string(),
        filename: http.filename,
        last_modified: http.last_modified.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
        checksum_response: http
            .checksum
            .map(|digest| gateway::ChecksumResponse { digest: digest.to_string(), suffix }),
    }
}
