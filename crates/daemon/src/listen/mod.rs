//! Listening for clients: unix sockets, TCP with or without TLS, inherited descriptors, Windows pipes.

mod tls;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as host;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as host;

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

pub use tls::TlsFiles;

use crate::{Daemon, Error, services};

/// A client's connection.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection for T {}

type Accepted = std::io::Result<Box<dyn Connection>>;

/// One address that is listened on.
pub struct Listener {
    address: String,
    accept: Box<dyn Accept>,
    tls: Option<TlsAcceptor>,
}

/// Something that takes connections.
pub(crate) trait Accept: Send {
    /// The next connection.
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = Accepted> + Send + '_>>;
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Listener {
    /// Listens on `address`: `unix://PATH`, `tcp://HOST:PORT`, `fd://[N|NAME]`, `npipe://PIPE`. `owner` is of a unix socket.
    /// One `fd://` can stand for several inherited sockets.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Tls`], [`Error::Option`] for an address of another kind.
    pub async fn open(
        address: &str,
        tls: Option<&TlsFiles>,
        owner: (Option<u32>, Option<u32>),
    ) -> Result<Vec<Self>, Error> {
        let (scheme, rest) = address.split_once("://").unwrap_or(("unix", address));
        let failed = |source| Error::Listen { address: address.to_owned(), source };
        let plain = |accept: Box<dyn Accept>| Self { address: address.to_owned(), accept, tls: None };
        match scheme {
            "tcp" => {
                let listener = tokio::net::TcpListener::bind(rest).await.map_err(failed)?;
                if tls.is_none() {
                    tracing::warn!(
                        address,
                        "TLS is not enabled: whoever can connect can do anything on this machine"
                    );
                }
                let tls = tls.map(TlsFiles::acceptor).transpose()?;
                Ok(vec![Self { address: address.to_owned(), accept: Box::new(Tcp(listener)), tls }])
            }
            "unix" | "npipe" | "fd" => {
                let accepting = host::open(scheme, rest, owner).map_err(failed)?;
                Ok(accepting.into_iter().map(plain).collect())
            }
            _ => Err(Error::Option {
                option: "--addr".into(),
                problem: format!("{address}: want unix://, tcp://, fd:// or npipe://"),
            }),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

struct Tcp(tokio::net::TcpListener);

impl Accept for Tcp {
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = Accepted> + Send + '_>> {
        Box::pin(async {
            let (stream, _) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

/// Serves `daemon` on all listeners until `stop` resolves. Connections that are open then stay open.
pub async fn serve(daemon: &Daemon, listeners: Vec<Listener>, stop: impl Future<Output = ()>) {
    let routes = Arc::new(services::routes(daemon));
    let tasks: Vec<_> = listeners.into_iter().map(|l| tokio::spawn(accept_loop(l, routes.clone()))).collect();
    stop.await;
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        // Aborted, or ended already.
        drop(task.await);
    }
}

async fn accept_loop(mut listener: Listener, routes: Arc<tonic::service::Routes>) {
    tracing::info!(address = listener.address, "running server");
    loop {
        match listener.accept.accept().await {
            Ok(connection) => {
                tokio::spawn(serve_one(connection, listener.tls.clone(), routes.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, address = listener.address, "accepting a connection");
                // Out of descriptors, most likely: others must end first.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_one(
    connection: Box<dyn Connection>,
    tls: Option<TlsAcceptor>,
    routes: Arc<tonic::service::Routes>,
) {
    let routes = (*routes).clone();
    let served = match tls {
        None => kiln_session::serve(connection, routes).await,
        Some(tls) => match tls.accept(connection).await {
            Ok(secure) => kiln_session::serve(secure, routes).await,
            Err(error) => {
                tracing::warn!(%error, "TLS handshake");
                return;
            }
        },
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}
