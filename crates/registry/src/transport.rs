//! HTTP clients, one for each set of TLS settings, and requests with authorization.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use kiln_oci::Reference;
use reqwest::{Body, Client, Response, Url};
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::time::timeout;

use crate::{
    Auth, Error, HostConfig, KeyPair, Remote,
    auth::Tokens,
    config::{Endpoint, endpoints},
    motion::{self, PATIENCE},
};

/// The largest error message that is read from a registry, in bytes.
const MAX_ERROR: usize = 64 << 10;

/// What the daemon knows of registries: their configuration, HTTP clients and cached tokens.
#[derive(Debug)]
pub struct Registries {
    hosts: BTreeMap<String, HostConfig>,
    /// By host, those for pushes apart; hosts without a table of their own share the entry of the empty name.
    clients: Mutex<BTreeMap<(String, bool), Client>>,
    pub(crate) tokens: Tokens,
    user_agent: String,
}

impl Registries {
    /// `hosts` are the `[registry."host"]` tables of the configuration.
    #[must_use]
    pub fn new(hosts: BTreeMap<String, HostConfig>, user_agent: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            hosts,
            clients: Mutex::default(),
            tokens: Tokens::default(),
            user_agent: user_agent.into(),
        })
    }

    /// The repository of `reference`, with the credentials of `auth`.
    #[must_use]
    pub fn remote(self: &Arc<Self>, reference: &Reference, auth: Auth) -> Remote {
        let endpoints = endpoints(&self.hosts, reference.domain());
        Remote::new(self.clone(), reference, endpoints, auth)
    }

    /// The repository of `reference` on a registry whose certificate does not matter, and on one that speaks no TLS: who
    /// says that a registry is insecure does not say how.
    #[must_use]
    pub fn insecure(reference: &Reference, auth: &Auth) -> [Remote; 2] {
        let any_certificate = HostConfig { insecure: true, http: Some(false), ..HostConfig::default() };
        let plain = HostConfig { http: Some(true), ..HostConfig::default() };
        [any_certificate, plain].map(|config| {
            let hosts = [(reference.domain().to_owned(), config)].into();
            Self::new(hosts, concat!("kiln/", env!("CARGO_PKG_VERSION"))).remote(reference, auth.clone())
        })
    }

    /// The HTTP client for servers that are no registries: same roots of trust, same time limits.
    ///
    /// # Errors
    /// [`Error::Tls`], [`Error::Http`] when it cannot be made.
    pub fn web_client(&self) -> Result<Client, Error> {
        self.client("", false)
    }

    /// The HTTP client for a host. One for pushes waits for an answer as long as it takes.
    pub(crate) fn client(&self, host: &str, push: bool) -> Result<Client, Error> {
        let config = self.hosts.get(host);
        let key = if config.is_some() { (host.to_owned(), push) } else { (String::new(), push) };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build_client(config.unwrap_or(&HostConfig::default()), &self.user_agent, push)?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn build_client(config: &HostConfig, user_agent: &str, push: bool) -> Result<Client, Error> {
    // The time limit of reading counts while a body is sent, too.
    let builder = Client::builder();
    let builder = if push { builder } else { builder.read_timeout(PATIENCE) };
    builder
        .tls_backend_preconfigured(tls(config)?)
        .user_agent(user_agent)
        .connect_timeout(Duration::from_secs(30))
        .pool_idle_timeout(Duration::from_secs(30))
        .build()
        .map_err(|source| Error::Http { url: "HTTP client".into(), source })
}

fn tls(config: &HostConfig) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    // A certificate of the system that cannot be parsed is the system's affair.
    let _counts = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let (mut cas, mut pairs) = (config.root_cas.clone(), config.key_pairs.clone());
    for dir in &config.tls_config_dirs {
        let (more_cas, more_pairs) = certificates_in(dir);
        cas.extend(more_cas);
        pairs.extend(more_pairs);
    }
    for path in &cas {
        for certificate in read_certificates(path)? {
            roots.add(certificate).map_err(|e| Error::Tls { path: path.clone(), problem: e.to_string() })?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let bad = |path: &Path| {
        let path = path.to_owned();
        move |error: rustls::Error| Error::Tls { path, problem: error.to_string() }
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(bad(Path::new("TLS")))?;
    let builder = if config.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    let mut tls = match pairs.first() {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(read_certificates(&pair.cert)?, read_key(&pair.key)?)
            .map_err(bad(&pair.cert))?,
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Authorities and key pairs in a folder like Docker's `certs.d/<host>`; a folder that is not there has none.
fn certificates_in(dir: &Path) -> (Vec<PathBuf>, Vec<KeyPair>) {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    let with = |extension: &str| {
        let wanted = Some(std::ffi::OsStr::new(extension));
        files.iter().filter(|p| p.extension() == wanted).cloned().collect::<Vec<_>>()
    };
    let pairs =
        with("cert").into_iter().map(|cert| KeyPair { key: cert.with_extension("key"), cert }).collect();
    (with("crt"), pairs)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = |problem: String| Error::Tls { path: path.to_owned(), problem };
    let pem = fs::read(path).map_err(|e| bad(e.to_string()))?;
    let all: Vec<_> = rustls_pemfile::certs(&mut pem.as_slice())
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if all.is_empty() { Err(bad("holds no PEM certificate".into())) } else { Ok(all) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bad = |problem: String| Error::Tls { path: path.to_owned(), problem };
    let pem = fs::read(path).map_err(|e| bad(e.to_string()))?;
    rustls_pemfile::private_key(&mut pem.as_slice())
        .map_err(|e| bad(e.to_string()))?
        .ok_or_else(|| bad("holds no PEM private key".into()))
}

/// What `insecure = true` asks for.
#[derive(Debug)]
struct AcceptAny(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A request to one server of a repository.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// Makes the body, for every try anew.
    pub(crate) body: Option<&'a (dyn Fn() -> Body + Sync)>,
}

impl Call<'_> {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None }
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The URL as errors show it: a query may hold a signature.
    pub(crate) fn shown_url(&self) -> String {
        shown(&self.url)
    }
}

pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

impl Remote {
    /// Sends a request, and once more with authorization if the server asks for it.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        push: bool,
    ) -> Result<Response, Error> {
        let client = self.registries.client(&endpoint.host, push)?;
        // Elsewhere (an upload's location, a blob's storage) the registry's token is nobody's business.
        let ours = call.url.host_str().is_some() && host_and_port(&call.url) == host_and_port_of(endpoint);
        let mut authorization = if ours { self.cached_authorization(endpoint, push).await } else { None };
        for last in [false, true] {
            let mut request =
                client.request(call.method.clone(), call.url.clone()).headers(call.headers.clone());
            if let Some(value) = &authorization {
                request = request.header(header::AUTHORIZATION, value.clone());
            }
            let answer = motion::send(request, call.body.map(|body| body())).await;
            let stalled = || Error::Stalled { url: call.shown_url(), patience: PATIENCE };
            let failed = |source| Error::Http { url: call.shown_url(), source };
            let response = answer.ok_or_else(stalled)?.map_err(failed)?;
            if last || !ours || response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            match self.authorize(endpoint, &response, push).await? {
                Some(value) => authorization = Some(value),
                None => return Ok(response),
            }
        }
        unreachable!("the second round returns")
    }
}

fn host_and_port(url: &Url) -> String {
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

fn host_and_port_of(endpoint: &Endpoint) -> String {
    let parsed = Url::parse(&format!("{}://{}/", endpoint.scheme, endpoint.host));
    parsed.map_or_else(|_| endpoint.host.clone(), |url| host_and_port(&url))
}

/// An error for an answer that is no success, with the registry's words.
pub(crate) async fn refuse(method: &'static str, reference: &str, response: Response) -> Error {
    let (status, url) = (response.status(), shown(response.url()));
    let retry_after = retry_after(&response);
    if status == StatusCode::NOT_FOUND {
        return Error::NotFound { reference: reference.to_owned() };
    }
    let message = timeout(PATIENCE, words(response)).await.unwrap_or_else(|_| "no reason came".to_owned());
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Error::Denied { reference: reference.to_owned(), status, message };
    }
    Error::Status { method, url, status, message, retry_after }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let when = httpdate::parse_http_date(value).ok()?;
    Some(when.duration_since(SystemTime::now()).unwrap_or_default())
}

/// The messages of the body's `errors`, or its first line.
async fn words(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ERROR {
            break;
        }
    }
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_slice::<Errors>(&body) {
        Ok(Errors { errors }) if !errors.is_empty() => {
            let shown: Vec<_> = errors.iter().map(|e| format!("{} ({})", e.message, e.code)).collect();
            shown.join("; ")
        }
        _ => {
            let text = String::from_utf8_lossy(&body);
            let line = text.lines().next().unwrap_or_default().trim().chars().take(200).collect::<String>();
            if line.is_empty() { "the registry gives no reason".to_owned() } else { line }
        }
    }
}
