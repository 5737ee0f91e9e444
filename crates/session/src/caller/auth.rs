//! Registry credentials and tokens.

use std::time::Duration;

use kiln_proto::{
    filesync::{
        CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
        GetTokenAuthorityRequest, VerifyTokenAuthorityRequest, auth_client::AuthClient,
    },
    limits::Limited as _,
};
use tonic::{Code, transport::Channel};

use crate::{Error, Session};

/// A credential helper may ask its user.
const PATIENCE: Duration = Duration::from_secs(60);

fn client(session: &Session) -> AuthClient<Channel> {
    AuthClient::new(session.channel()).limited()
}

async fn patiently<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, tonic::Status> {
    let late =
        |_| tonic::Status::deadline_exceeded(format!("the client gave no credentials within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, call).await.map_err(late)?
}

/// Name and password for a registry host; both empty when the client has none.
///
/// # Errors
/// The client's.
pub async fn credentials(session: &Session, host: &str) -> Result<CredentialsResponse, Error> {
    let answer = patiently(client(session).credentials(CredentialsRequest { host: host.to_owned() })).await;
    match answer {
        Err(status) if status.code() == Code::Unimplemented => Ok(CredentialsResponse::default()),
        other => Ok(other?.into_inner()),
    }
}

/// A token that the client fetches itself, so that the daemon never sees the password.
///
/// # Errors
/// The client's.
pub async fn fetch_token(session: &Session, request: FetchTokenRequest) -> Result<FetchTokenResponse, Error> {
    Ok(patiently(client(session).fetch_token(request)).await?.into_inner())
}

/// The public key (Ed25519, 32 bytes) by which the client proves that it may use tokens of a host; `None` when it fetches none.
///
/// # Errors
/// The client's.
pub async fn token_authority(session: &Session, host: &str, salt: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let request = GetTokenAuthorityRequest { host: host.to_owned(), salt: salt.to_vec().into() };
    match patiently(client(session).get_token_authority(request)).await {
        Err(status) if matches!(status.code(), Code::Unimplemented | Code::Unavailable) => Ok(None),
        other => Ok(Some(other?.into_inner().public_key.to_vec())),
    }
}

/// `payload` signed with the key of [`token_authority`]: 64 bytes of signature, then the payload.
///
/// # Errors
/// The client's.
pub async fn verify_token_authority(
    session: &Session,
    host: &str,
    salt: &[u8],
    payload: &[u8],
) -> Result<Vec<u8>, Error> {
    let request = VerifyTokenAuthorityRequest {
        host: host.to_owned(),
        payload: payload.to_vec().into(),
        salt: salt.to_vec().into(),
    };
    Ok(patiently(client(session).verify_token_authority(request)).await?.into_inner().signed.to_vec())
}
