//! Secrets.

use bytes::Bytes;
use kiln_proto::{
    limits::Limited as _,
    secrets::{GetSecretRequest, secrets_client::SecretsClient},
};
use tonic::Code;

use crate::{Error, Session};

/// The secret `id`; `None` when the client does not have it.
///
/// # Errors
/// The client's.
pub async fn secret(session: &Session, id: &str) -> Result<Option<Bytes>, Error> {
    let request = GetSecretRequest { id: id.to_owned(), ..Default::default() };
    match SecretsClient::new(session.channel()).limited().get_secret(request).await {
        Ok(answer) => Ok(Some(answer.into_inner().data)),
        Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(None),
        Err(status) => Err(status.into()),
    }
}
