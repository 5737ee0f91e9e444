//! Tokens of registries, fetched by the client.
//!
//! Sources: the Docker registry's token authentication (GET with Basic) and OAuth 2 (POST with a password or refresh token).

use std::{fs, path::Path, sync::Arc, time::Duration};

use kiln_proto::filesync::{FetchTokenRequest, FetchTokenResponse};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;

use super::Credentials;
use crate::options::RegistryTls;

/// Seconds that a token lives at least, by the specification, when the server does not say.
pub(super) const DEFAULT_LIFE: i64 = 60;
/// How servers know us.
const CLIENT_ID: &str = "buildkit-client";
/// An answer larger than this is none, in bytes.
const MAX_ANSWER: usize = 4 << 20;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: i64,
    #[serde(default)]
    issued_at: String,
}

/// Fetches a token: with credentials by POST, and by GET if the server does not know POST or there are none.
///
/// # Errors
/// What went wrong at which server; no secret is in it.
pub(super) async fn fetch(
    request: &FetchTokenRequest,
    credentials: &Credentials,
    tls: Option<&RegistryTls>,
) -> Result<FetchTokenResponse, String> {
    let client = client(tls)?;
    if credentials.secret().is_empty() {
        let got = answer(get(&client, request, credentials)).await;
        return got.map_err(|error| format!("failed to fetch anonymous token: {error}"));
    }
    let failed = |error: Failure| format!("failed to fetch oauth token: {error}");
    match answer(post(&client, request, credentials)).await {
        Err(Failure::Status(code, _)) if retries_as_get(code, credentials) => {
            answer(get(&client, request, credentials)).await.map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Some servers answer a POST that they do not know with these.
fn retries_as_get(code: StatusCode, credentials: &Credentials) -> bool {
    matches!(code, StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED)
        || (code == StatusCode::METHOD_NOT_ALLOWED && !credentials.user().is_empty())
}

fn post(client: &Client, request: &FetchTokenRequest, credentials: &Credentials) -> RequestBuilder {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    if !request.scopes.is_empty() {
        form.append_pair("scope", &request.scopes.join(" "));
    }
    form.append_pair("service", &request.service).append_pair("client_id", CLIENT_ID);
    if credentials.user().is_empty() {
        form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", credentials.secret());
    } else {
        form.append_pair("grant_type", "password")
            .append_pair("username", credentials.user())
            .append_pair("password", credentials.secret());
    }
    client
        .post(&request.realm)
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .body(form.finish())
}

fn get(client: &Client, request: &FetchTokenRequest, credentials: &Credentials) -> RequestBuilder {
    let mut builder = client.get(match url::Url::parse(&request.realm) {
        Ok(mut url) => {
            if !request.service.is_empty() {
                url.query_pairs_mut().append_pair("service", &request.service);
            }
            for scope in &request.scopes {
                url.query_pairs_mut().append_pair("scope", scope);
            }
            url.to_string()
        }
        // The client says what is wrong with it.
        Err(_) => request.realm.clone(),
    });
    if !credentials.secret().is_empty() {
        builder = builder.basic_auth(credentials.user(), Some(credentials.secret()));
    }
    builder
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("unexpected status from token server {1}: {0}")]
    Status(StatusCode, String),
    #[error("{0}")]
    Other(String),
}

async fn answer(request: RequestBuilder) -> Result<FetchTokenResponse, Failure> {
    // Without the URL: a query may hold what should not be shown.
    let other = |error: reqwest::Error| Failure::Other(deepest(&error.without_url()));
    let response = request.send().await.map_err(other)?;
    let host = response.url().host_str().unwrap_or_default().to_owned();
    if !response.status().is_success() {
        return Err(Failure::Status(response.status(), host));
    }
    let bad = |problem: &str| Failure::Other(format!("token server {host}: {problem}"));
    let mut data = Vec::new();
    let mut response = response;
    while let Some(chunk) = response.chunk().await.map_err(other)? {
        data.extend_from_slice(&chunk);
        if data.len() > MAX_ANSWER {
            return Err(bad("its answer is too large"));
        }
    }
    let answer: Answer =
        serde_json::from_slice(&data).map_err(|_| bad("its answer is not the JSON of a token"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(bad("its answer holds no token"));
    }
    let expires_in = if answer.expires_in == 0 { DEFAULT_LIFE } else { answer.expires_in };
    let issued_at = answer.issued_at.parse().map_or(0, jiff::Timestamp::as_second);
    Ok(FetchTokenResponse { token, expires_in, issued_at })
}

fn deepest(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn client(tls: Option<&RegistryTls>) -> Result<Client, String> {
    let none = RegistryTls::default();
    let tls = tls.unwrap_or(&none);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for ca in &tls.cas {
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| format!("CA certificate {}: {error}", ca.display()))?;
        }
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match tls.pairs.first() {
        Some((cert, key)) => {
            let key = rustls_pemfile::private_key(&mut read(key)?.as_slice())
                .ok()
                .flatten()
                .ok_or_else(|| format!("{} holds no private key", key.display()))?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(|error| error.to_string())?
        }
        None => builder.with_no_client_auth(),
    };
    let mut client = Client::builder().use_preconfigured_tls(config).connect_timeout(Duration::from_secs(30));
    if tls.insecure {
        client = client.danger_accept_invalid_certs(true);
    }
    client.build().map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, String> {
    rustls_pemfile::certs(&mut read(path)?.as_slice())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: {error}", path.display()))
}
