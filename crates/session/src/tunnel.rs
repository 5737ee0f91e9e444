//! A byte stream over a stream of messages that each carry some bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures::{Stream, StreamExt as _};
use kiln_proto::control::BytesMessage;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::PollSender;

/// Messages that wait to be sent: enough that writer and network overlap, few enough to bound memory.
const QUEUE: usize = 32;
/// Larger writes are split; far below the peer's message limit.
const CHUNK: usize = 256 << 10;

/// Both directions of a tunnel as one connection.
pub struct Tunnel<S> {
    incoming: S,
    current: Bytes,
    outgoing: PollSender<BytesMessage>,
}

/// The two ends of a tunnel's outgoing side: give the sender to [`Tunnel::new`], send the stream to the peer.
#[must_use]
pub fn outgoing() -> (mpsc::Sender<BytesMessage>, tokio_stream::wrappers::ReceiverStream<BytesMessage>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (sender, receiver.into())
}

impl<S> Tunnel<S>
where
    S: Stream<Item = Result<BytesMessage, tonic::Status>> + Unpin,
{
    /// A connection that reads from `incoming` and writes to `outgoing`.
    pub fn new(incoming: S, outgoing: mpsc::Sender<BytesMessage>) -> Self {
        Self { incoming, current: Bytes::new(), outgoing: PollSender::new(outgoing) }
    }
}

impl<S> AsyncRead for Tunnel<S>
where
    S: Stream<Item = Result<BytesMessage, tonic::Status>> + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.incoming.poll_next_unpin(cx)) {
                Some(Ok(message)) => self.current = message.data,
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let take = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..take]);
        self.current.advance(take);
        Poll::Ready(Ok(()))
    }
}

impl<S: Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(|_| gone())?;
        let take = bytes.len().min(CHUNK);
        let message = BytesMessage { data: Bytes::copy_from_slice(&bytes[..take]) };
        self.outgoing.send_item(message).map_err(|_| gone())?;
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in() {
        let (sender, receiver) = outgoing();
        let mut writer = Tunnel::new(futures::stream::pending(), sender);
        let mut reader = Tunnel::new(receiver.map(Ok), outgoing().0);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let copy = sent.clone();
        tokio::spawn(async move {
            writer.write_all(&copy).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
    }

    #[tokio::test]
    async fn a_peer_that_left_is_a_broken_pipe() {
        let (sender, receiver) = outgoing();
        drop(receiver);
        let mut writer = Tunnel::new(futures::stream::pending(), sender);
        assert_eq!(writer.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
