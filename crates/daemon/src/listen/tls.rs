//! TLS of TCP addresses: a certificate, and client certificates if there is an authority for them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::Error;

/// PEM files of a TLS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority of client certificates: given, clients without one are refused.
    pub ca: Option<PathBuf>,
}

impl TlsFiles {
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let bad = |path: &Path, problem: String| Error::Tls { path: path.to_owned(), problem };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(&self.cert, e.to_string()))?;
        let builder = match &self.ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(ca)? {
                    roots.add(certificate).map_err(|e| bad(ca, e.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|e| bad(ca, e.to_string()))?)
            }
        };
        let mut config = builder
            .with_single_cert(certificates(&self.cert)?, key(&self.key)?)
            .map_err(|e| bad(&self.cert, e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| Error::Tls { path: path.to_owned(), problem: e.to_string() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = |problem: String| Error::Tls { path: path.to_owned(), problem };
    let all = rustls_pemfile::certs(&mut read(path)?.as_slice()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|e| bad(e.to_string()))?;
    if all.is_empty() { Err(bad("holds no PEM certificate".into())) } else { Ok(all) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bad = |problem: String| Error::Tls { path: path.to_owned(), problem };
    let key = rustls_pemfile::private_key(&mut read(path)?.as_slice()).map_err(|e| bad(e.to_string()))?;
    key.ok_or_else(|| bad("holds no PEM private key".into()))
}
