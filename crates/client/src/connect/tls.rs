//! TLS towards a daemon, with certificates from files.

use std::{
    fs,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio_rustls::TlsConnector;

use super::Stream;
use crate::Error;

/// Where certificates and key are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// What signed the daemon's certificate; none: what the system trusts.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The name that the daemon's certificate must be for, if it is not the host.
    pub server_name: Option<String>,
}

impl TlsFiles {
    /// The files of a folder, under either of the names that are usual for each.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what is missing.
    pub fn in_dir(dir: &Path) -> Result<Self, Error> {
        let one_of = |a: &str, b: &str| {
            [a, b].map(|name| dir.join(name)).into_iter().find(|path| path.exists()).map(Some).ok_or_else(
                || Error::Usage(format!("{} has neither {a} nor {b}, one of which TLS needs", dir.display())),
            )
        };
        Ok(Self {
            ca: one_of("ca.pem", "ca.crt")?,
            cert: one_of("cert.pem", "tls.crt")?,
            key: one_of("key.pem", "tls.key")?,
            server_name: None,
        })
    }

    pub(super) fn connector(&self, host: &str) -> Result<Tls, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Usage(format!("TLS: {error}")))?
            .with_root_certificates(roots(self.ca.as_deref())?);
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(|error| {
                    Error::Usage(format!("certificate {} and key {}: {error}", cert.display(), key.display()))
                })?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => {
                return Err(Error::Usage(
                    "TLS needs both a certificate and its key, or neither (--tlscert, --tlskey)".into(),
                ));
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = self.server_name.as_deref().unwrap_or(host);
        let server = ServerName::try_from(name.to_owned()).map_err(|_| {
            Error::Usage(format!("{name:?} is no name that a certificate could be for; say --tlsservername"))
        })?;
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            server,
            explicit: self.server_name.clone(),
        })
    }
}

/// Makes connections into TLS connections.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
    explicit: Option<String>,
}

impl Tls {
    pub(super) fn explicit_name(&self) -> Option<&str> {
        self.explicit.as_deref()
    }

    pub(super) async fn handshake(&self, raw: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.connector.connect(self.server.clone(), raw).await?))
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| Error::Usage(format!("CA certificate {}: {error}", path.display())))?;
            }
        }
        // A certificate of the system that cannot be read is one that nothing is trusted for.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let context = || format!("reading certificate {}", path.display());
    let file = fs::File::open(path).map_err(Error::io(context()))?;
    let found = rustls_pemfile::certs(&mut BufReader::new(file))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Error::io(context()))?;
    if found.is_empty() {
        return Err(Error::Usage(format!("{} holds no certificate in PEM", path.display())));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let context = || format!("reading key {}", path.display());
    let file = fs::File::open(path).map_err(Error::io(context()))?;
    rustls_pemfile::private_key(&mut BufReader::new(file))
        .map_err(Error::io(context()))?
        .ok_or_else(|| Error::Usage(format!("{} holds no private key in PEM", path.display())))
}
