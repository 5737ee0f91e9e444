//! Credentials of registries, as Docker keeps them, and tokens that are fetched with them.
//!
//! Passwords stay here where that is possible: the daemon hands on a registry's challenge, and the client fetches the token. Whose
//! token another session may use is settled by a signature: the key is derived from the daemon's salt and, if there is a password,
//! from a seed that never leaves this host.

mod config;
mod helper;
mod seed;
mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kiln_proto::{
    filesync::{
        CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
        GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
        VerifyTokenAuthorityResponse,
        auth_server::{Auth as Service, AuthServer},
    },
    limits::Limited as _,
};
use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use tonic::{Request, Response, Status};

pub use config::{Credentials, DockerConfig};

use super::failed;
use crate::{options::RegistryTls, progress::Events};

/// What the daemon calls Docker Hub.
const HUB_HOST: &str = "registry-1.docker.io";
/// What Docker's configuration calls it.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Credentials of helpers are asked for again after this: some of them expire after five minutes.
const REMEMBER: Duration = Duration::from_secs(290);

/// The service.
pub struct Auth {
    config: Arc<DockerConfig>,
    tls: BTreeMap<String, RegistryTls>,
    events: Events,
    /// Keys of tokens are not given out at all.
    no_tokens: bool,
    known: Mutex<BTreeMap<String, (Instant, Credentials)>>,
    told: Mutex<BTreeSet<String>>,
}

impl Auth {
    /// The service with the credentials of `config`. What it does is shown as steps of the build.
    /// With `no_tokens` the daemon is given credentials only.
    #[must_use]
    pub fn new(
        config: DockerConfig,
        tls: BTreeMap<String, RegistryTls>,
        events: Events,
        no_tokens: bool,
    ) -> AuthServer<Self> {
        let (known, told) = (Mutex::default(), Mutex::default());
        AuthServer::new(Self { config: Arc::new(config), tls, events, no_tokens, known, told }).limited()
    }

    async fn credentials_of(&self, host: &str) -> Result<Credentials, Status> {
        let lock = |m: &Mutex<BTreeMap<String, (Instant, Credentials)>>| {
            m.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
        };
        if let Some((since, credentials)) = lock(&self.known).filter(|(since, _)| since.elapsed() < REMEMBER)
        {
            let _age = since;
            return Ok(credentials);
        }
        let key = if host == HUB_HOST { HUB_KEY } else { host }.to_owned();
        let config = self.config.clone();
        let found = tokio::task::spawn_blocking(move || config.credentials(&key)).await.map_err(failed)?;
        let found = found.map_err(|error| failed(format!("credentials for {host}: {error}")))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(host.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }

    /// Shows a step, once.
    fn tell(&self, name: String) {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            self.events.step(&name);
        }
    }

    async fn key(&self, host: &str, salt: &[u8]) -> Result<Ed25519KeyPair, Status> {
        if self.no_tokens {
            return Err(Status::unavailable("client side tokens disabled"));
        }
        let credentials = self.credentials_of(host).await?;
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, salt));
        if !credentials.secret().is_empty() {
            mac.update(&seed::of(self.config.dir(), host).map_err(failed)?);
        }
        Ed25519KeyPair::from_seed_unchecked(mac.sign().as_ref()).map_err(failed)
    }
}

#[tonic::async_trait]
impl Service for Auth {
    async fn credentials(
        &self,
        call: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = call.into_inner().host;
        let credentials = self.credentials_of(&host).await?;
        if !credentials.secret().is_empty() {
            self.tell(format!("[auth] sharing credentials for {host}"));
        }
        let (username, secret) = (credentials.user().to_owned(), credentials.secret().to_owned());
        Ok(Response::new(CredentialsResponse { username, secret }))
    }

    async fn fetch_token(
        &self,
        call: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        let request = call.into_inner();
        let credentials = self.credentials_of(&request.host).await?;
        if !credentials.registry_token.is_empty() {
            let token = credentials.registry_token;
            return Ok(Response::new(FetchTokenResponse {
                token,
                expires_in: token::DEFAULT_LIFE,
                issued_at: 0,
            }));
        }
        if !credentials.secret().is_empty() {
            let scopes: Vec<_> =
                request.scopes.iter().map(|s| s.strip_prefix("repository:").unwrap_or(s)).collect();
            self.tell(format!("[auth] {} token for {}", scopes.join(" "), request.host));
        }
        let fetched = token::fetch(&request, &credentials, self.tls.get(&request.host)).await;
        fetched.map(Response::new).map_err(failed)
    }

    async fn get_token_authority(
        &self,
        call: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let GetTokenAuthorityRequest { host, salt } = call.into_inner();
        let key = self.key(&host, &salt).await?;
        let public_key = key.public_key().as_ref().to_vec().into();
        Ok(Response::new(GetTokenAuthorityResponse { public_key }))
    }

    async fn verify_token_authority(
        &self,
        call: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let VerifyTokenAuthorityRequest { host, payload, salt } = call.into_inner();
        let key = self.key(&host, &salt).await?;
        // The form of NaCl's sign: the signature, then what is signed.
        let signed = [key.sign(&payload).as_ref(), &payload[..]].concat().into();
        Ok(Response::new(VerifyTokenAuthorityResponse { signed }))
    }
}
