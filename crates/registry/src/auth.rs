//! Who we are to a registry: passwords and tokens that the build's client gives.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderValue, Method, StatusCode, header};
use kiln_proto::filesync::FetchTokenRequest;
use kiln_session::{Group, caller};
use reqwest::{Response, Url};
use serde::Deserialize;

use crate::{
    Error, Remote,
    challenge::{self, Challenge},
    config::Endpoint,
    transport::{refuse, shown},
};

/// How registries know us.
const CLIENT_ID: &str = "buildkit-client";
/// What a token lives at least, by the token specification, when the server does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// Whose credentials to use.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Nobody's.
    #[default]
    Anonymous,
    /// Those of whichever client of the group answers.
    Group(Group),
}

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

/// Which repository on which server, to do what, on behalf of which clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    repository: String,
    access: Access,
    /// A token serves only the sessions that it was had from.
    owner: String,
}

/// Authorization headers that servers accepted.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<Key, (HeaderValue, Instant)>>);

impl Tokens {
    fn get(&self, key: &Key) -> Option<HeaderValue> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|_, (_, expires)| *expires > now);
        all.get(key).map(|(value, _)| value.clone())
    }

    fn put(&self, key: Key, value: HeaderValue, life: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A tenth off: a token must not expire between this clock's reading and the server's.
        all.insert(key, (value, Instant::now() + life.mul_f32(0.9)));
    }
}

/// A token server's answer; the two names mean the same.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl Remote {
    fn key(&self, endpoint: &Endpoint, push: bool) -> Key {
        let owner = match &self.auth {
            Auth::Anonymous => String::new(),
            Auth::Group(group) => group.ids().join(" "),
        };
        let access = if push { Access::Push } else { Access::Pull };
        Key { host: endpoint.host.clone(), repository: self.repository(endpoint), access, owner }
    }

    /// What served the last request of this kind.
    pub(crate) async fn cached_authorization(&self, endpoint: &Endpoint, push: bool) -> Option<HeaderValue> {
        self.registries.tokens.get(&self.key(endpoint, push))
    }

    /// An answer to the challenges of a 401, if we have one.
    pub(crate) async fn authorize(
        &self,
        endpoint: &Endpoint,
        refused: &Response,
        push: bool,
    ) -> Result<Option<HeaderValue>, Error> {
        let headers = refused.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> =
            headers.iter().filter_map(|h| h.to_str().ok()).flat_map(challenge::parse).collect();
        let (value, life) = if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            let (token, life) = self.token(endpoint, bearer, push).await?;
            (format!("Bearer {token}"), life)
        } else if challenges.iter().any(|c| c.scheme == "basic") {
            let (user, secret) = self.credentials(&endpoint.host).await?;
            if user.is_empty() && secret.is_empty() {
                return Ok(None);
            }
            (basic(&user, &secret), Duration::from_secs(3600))
        } else {
            return Ok(None);
        };
        let bad = |_| Error::Answer { url: shown(refused.url()), problem: "its token cannot be sent".into() };
        let mut value = HeaderValue::from_str(&value).map_err(bad)?;
        value.set_sensitive(true);
        self.registries.tokens.put(self.key(endpoint, push), value.clone(), life);
        Ok(Some(value))
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        bearer: &Challenge,
        push: bool,
    ) -> Result<(String, Duration), Error> {
        let actions = if push { "pull,push" } else { "pull" };
        let mut scopes = vec![format!("repository:{}:{actions}", self.repository(endpoint))];
        for scope in bearer.param("scope").split_whitespace() {
            if !scopes.iter().any(|s| s == scope) {
                scopes.push(scope.to_owned());
            }
        }
        let host = &endpoint.host;
        let failed = |source| Error::Credentials { host: host.clone(), source };
        if let Auth::Group(group) = &self.auth {
            let request = FetchTokenRequest {
                client_id: CLIENT_ID.into(),
                host: host.clone(),
                realm: bearer.param("realm").into(),
                service: bearer.param("service").into(),
                scopes: scopes.clone(),
            };
            let fetched = group.any("registry credentials", |session| {
                let (request, host) = (request.clone(), host.clone());
                async move {
                    // The key would let several clients share a token; here each has its own, so only its being there counts.
                    match caller::token_authority(&session, &host, salt()).await? {
                        Some(_) => Ok(Some(caller::fetch_token(&session, request).await?)),
                        None => Ok(None),
                    }
                }
            });
            if let Some(answer) = fetched.await.map_err(failed)? {
                return Ok((answer.token, life(u64::try_from(answer.expires_in).unwrap_or_default())));
            }
        }
        let (user, secret) = self.credentials(host).await?;
        self.fetch_token(host, bearer, &scopes, &user, &secret).await
    }

    async fn credentials(&self, host: &str) -> Result<(String, String), Error> {
        let Auth::Group(group) = &self.auth else { return Ok(Default::default()) };
        let answer = group.any("registry credentials", |session| {
            let host = host.to_owned();
            async move { caller::credentials(&session, &host).await }
        });
        let answer = answer.await.map_err(|source| Error::Credentials { host: host.to_owned(), source })?;
        Ok((answer.username, answer.secret))
    }

    /// Asks the token server: by OAuth 2 when there is a secret, by GET else or when the server knows no POST.
    async fn fetch_token(
        &self,
        host: &str,
        bearer: &Challenge,
        scopes: &[String],
        user: &str,
        secret: &str,
    ) -> Result<(String, Duration), Error> {
        let realm = bearer.param("realm");
        let bad = |problem: &str| Error::Answer { url: realm.to_owned(), problem: problem.to_owned() };
        let url = Url::parse(realm).map_err(|_| bad("the token server's address is no URL"))?;
        let service = bearer.param("service");
        let client = self.registries.client(host, false)?;
        let failed = |source| Error::Http { url: shown(&url), source };
        if !secret.is_empty() {
            let scope = scopes.join(" ");
            let mut form = vec![("client_id", CLIENT_ID), ("service", service), ("scope", &scope)];
            if user.is_empty() {
                form.extend([("grant_type", "refresh_token"), ("refresh_token", secret)]);
            } else {
                form.extend([("grant_type", "password"), ("username", user), ("password", secret)]);
            }
            let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
            let post = client.request(Method::POST, url.clone());
            let post = post.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
            let response = post.send().await.map_err(failed)?;
            let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::UNAUTHORIZED];
            if user.is_empty() || !unknown.contains(&response.status()) {
                return read_token(response).await;
            }
        }
        let mut get_url = url.clone();
        if !service.is_empty() {
            get_url.query_pairs_mut().append_pair("service", service);
        }
        for scope in scopes {
            get_url.query_pairs_mut().append_pair("scope", scope);
        }
        let mut get = client.request(Method::GET, get_url);
        if !secret.is_empty() {
            get = get.header(header::AUTHORIZATION, basic(user, secret));
        }
        read_token(get.send().await.map_err(failed)?).await
    }
}

async fn read_token(response: Response) -> Result<(String, Duration), Error> {
    let url = shown(response.url());
    if !response.status().is_success() {
        return Err(refuse("GET", &format!("token from {url}"), response).await);
    }
    let answer: TokenAnswer =
        response.json().await.map_err(|source| Error::Http { url: url.clone(), source })?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(Error::Answer { url, problem: "the token server sent no token".into() });
    }
    Ok((token, life(answer.expires_in)))
}

fn life(seconds: u64) -> Duration {
    if seconds == 0 { DEFAULT_LIFE } else { Duration::from_secs(seconds) }
}

fn basic(user: &str, secret: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{secret}")))
}

/// Random to this process: with it a client derives the key that it shows, so that keys of different daemons differ.
fn salt() -> &'static [u8] {
    static SALT: OnceLock<[u8; 32]> = OnceLock::new();
    SALT.get_or_init(|| {
        let mut salt = [0; 32];
        // A salt of zeros is weaker, not wrong.
        let _weak = getrandom::fill(&mut salt);
        salt
    })
}
