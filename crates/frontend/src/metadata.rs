//! What git repositories and files of the web stand for, as the gateway's messages tell.

use kiln_oci::Algorithm;
use kiln_proto::{
    gateway::{self, checksum_request::ChecksumAlgo},
    status::WireError,
};
use kiln_source::{GitMetadata, HttpMetadata, Metadata, MetadataRequest};
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
