//! The client's secrets, read when they are asked for.

use std::{collections::BTreeMap, io::Read as _, sync::Arc};

use kiln_proto::{
    limits::Limited as _,
    secrets::{
        GetSecretRequest, GetSecretResponse,
        secrets_server::{Secrets as Service, SecretsServer},
    },
};
use tonic::{Request, Response, Status};

use super::failed;
use crate::options::{Secret, SecretSource};

/// The largest secret, in bytes.
const MAX_SECRET: u64 = 500 * 1024;

/// Secrets by id.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Arc<BTreeMap<String, SecretSource>>);

impl Secrets {
    /// The service for these secrets.
    #[must_use]
    pub fn new(secrets: Vec<Secret>) -> SecretsServer<Self> {
        let by_id = secrets.into_iter().map(|secret| (secret.id, secret.source)).collect();
        SecretsServer::new(Self(Arc::new(by_id))).limited()
    }
}

#[tonic::async_trait]
impl Service for Secrets {
    async fn get_secret(
        &self,
        call: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = call.into_inner().id;
        let source = self.0.get(&id).ok_or_else(|| Status::not_found(format!("secret {id}: not found")))?;
        let data = read(source).map_err(|error| failed(format!("secret {id}: {error}")))?;
        if data.len() as u64 > MAX_SECRET {
            return Err(failed(format!("secret {id} is larger than {MAX_SECRET} bytes")));
        }
        Ok(Response::new(GetSecretResponse { data: data.into() }))
    }
}

fn read(source: &SecretSource) -> std::io::Result<Vec<u8>> {
    match source {
        SecretSource::Env(name) => Ok(std::env::var_os(name).unwrap_or_default().into_encoded_bytes()),
        SecretSource::File(path) => {
            let mut data = Vec::new();
            std::fs::File::open(path)?.take(MAX_SECRET + 1).read_to_end(&mut data)?;
            Ok(data)
        }
    }
}
