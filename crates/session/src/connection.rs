//! HTTP/2 over one byte stream: the daemon's end calls, the client's end serves.

use std::{
    io,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kiln_proto::limits::{CONNECTION_WINDOW, MAX_HEADER_LIST, STREAM_WINDOW};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::{Channel, Endpoint, Uri};

/// Calls over `io`. The token is cancelled when the connection is gone; cancelling it breaks the connection, and so every call that
/// is under way.
pub(crate) async fn call<IO>(io: IO) -> Result<(Channel, CancellationToken), tonic::transport::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let closed = CancellationToken::new();
    let broken = Box::pin(closed.clone().cancelled_owned());
    let watched = Watched { io, broken, _guard: closed.clone().drop_guard() };
    let once = Mutex::new(Some(TokioIo::new(watched)));
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.lock().ok().and_then(|mut slot| slot.take());
        std::future::ready(io.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    let channel = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .connect_with_connector(connector)
        .await?;
    Ok((channel, closed))
}

/// Serves `routes` over `io` until the peer closes it, with the limits of these services.
///
/// # Errors
/// When the peer does not speak HTTP/2, or the connection breaks.
pub async fn serve<IO>(io: IO, routes: tonic::service::Routes) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_concurrent_streams(None)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(routes.prepare()))
        .await
}

/// A channel to the server at the other end of `io`.
///
/// # Errors
/// When the peer does not speak HTTP/2.
pub async fn connect<IO>(io: IO) -> Result<Channel, tonic::transport::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Ok(call(io).await?.0)
}

/// A connection that tells when it is dropped, and breaks when it is told to.
struct Watched<IO> {
    io: IO,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
    _guard: DropGuard,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Somebody always waits for bytes to read, so this is looked at in time.
        if self.broken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
