//! From an address to a gRPC channel.
//!
//! ```text
//!   unix:///run/x.sock              a socket               npipe:////./pipe/x        a named pipe of Windows
//!   tcp://host:port                 TCP, with or without TLS
//!   docker-container://name         `docker exec -i name buildctl dial-stdio`, and so on for podman, nerdctl, kubectl and ssh:
//!   kube-pod://pod?namespace=…      a helper's standard input and output are the connection
//!   ssh://user@host:port/socket
//! ```

mod address;
mod helper;
mod local;
mod tls;

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use kiln_proto::limits::{CONNECTION_WINDOW, MAX_HEADER_LIST, STREAM_WINDOW};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint};

pub use address::{Address, Helper};
pub use local::connect_local;
pub use tls::TlsFiles;

use crate::Error;

/// Where a daemon listens when nobody says otherwise.
#[cfg(unix)]
pub const DEFAULT_ADDRESS: &str = "unix:///run/buildkit/buildkitd.sock";
/// Where a daemon listens when nobody says otherwise.
#[cfg(windows)]
pub const DEFAULT_ADDRESS: &str = "npipe:////./pipe/buildkitd";

/// Both directions of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How to reach a daemon.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Certificates, if TLS is wanted.
    pub tls: Option<TlsFiles>,
    /// How long an attempt may take; none for as long as it takes.
    pub timeout: Option<Duration>,
}

/// Connects to the daemon at `address`.
///
/// # Errors
/// An address of no known form, certificates that cannot be read, and a daemon that is not there.
pub async fn connect(address: &str, options: &Options) -> Result<Channel, Error> {
    let parsed = Address::parse(address)?;
    let tls = options.tls.as_ref().map(|files| files.connector(parsed.host())).transpose()?;
    let attempt = open(parsed.clone());
    let problem = |problem: String| Error::Connect { address: address.to_owned(), problem };
    // The first connection is made here, so that its error is ours to word; the channel makes later ones itself.
    let first = within(options.timeout, attempt).await.map_err(|error| problem(describe(&parsed, &error)))?;
    let mut first = Some(first);
    let endpoint = endpoint(parsed.authority(tls.as_ref().and_then(|t| t.explicit_name())));
    let connector = tower::service_fn(move |_| {
        let (first, parsed, tls) = (first.take(), parsed.clone(), tls.clone());
        async move {
            let raw = match first {
                Some(stream) => stream,
                None => open(parsed).await?,
            };
            let stream = match tls {
                Some(tls) => tls.handshake(raw).await?,
                None => raw,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let channel = endpoint.connect_with_connector(connector);
    within(options.timeout, async { channel.await.map_err(io::Error::other) })
        .await
        .map_err(|error| problem(root_cause(&error)))
}

/// The settings of every connection to a daemon, whatever carries it.
#[must_use]
pub fn endpoint(authority: String) -> Endpoint {
    let uri = format!("http://{authority}")
        .parse::<http::Uri>()
        .unwrap_or_else(|_| http::Uri::from_static("http://localhost"));
    Endpoint::from(uri)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .buffer_size(Some(4096))
}

/// One connection, without TLS and gRPC.
///
/// # Errors
/// If nobody listens, or the helper cannot be started.
pub async fn open(address: Address) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Local(path) => Box::new(connect_local(&path).await?),
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Address::Helper(helper) => Box::new(helper.start()?),
    })
}

async fn within<T>(limit: Option<Duration>, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match limit {
        None => future.await,
        Some(limit) => tokio::time::timeout(limit, future).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}")))
        }),
    }
}

fn describe(address: &Address, error: &io::Error) -> String {
    match address {
        Address::Local(path) => format!("dial {}: {error}", path.display()),
        Address::Tcp { host, port } => format!("dial tcp {host}:{port}: {error}"),
        Address::Helper(helper) => format!("{helper}: {error}"),
    }
}

/// The innermost error: the layers above it only say "transport error".
fn root_cause(error: &io::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
