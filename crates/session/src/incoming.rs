//! The answering half of a call that speaks both ways.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::task::JoinHandle;
use tonic::{Response, Status, Streaming};

/// Messages of the peer.
///
/// A server in Go sends its headers with its first message, and many wait for ours before they send any. So the headers are not
/// awaited when a call is opened, as tonic does it, but with the first message.
pub struct Incoming<T> {
    state: State<T>,
}

enum State<T> {
    Opening(JoinHandle<Result<Response<Streaming<T>>, Status>>),
    Open(Box<Streaming<T>>),
    Failed,
}

impl<T> Incoming<T> {
    /// Starts `call`, a method of a generated client.
    pub(crate) fn open<F>(call: F) -> Self
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
        T: Send + 'static,
    {
        Self { state: State::Opening(tokio::spawn(call)) }
    }

    /// The next message; `None` when the peer has ended the call without an error.
    ///
    /// # Errors
    /// The peer's.
    pub async fn message(&mut self) -> Result<Option<T>, Status> {
        self.next().await.transpose()
    }
}

impl<T> Stream for Incoming<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                State::Open(messages) => return messages.poll_next_unpin(cx),
                State::Failed => return Poll::Ready(None),
                State::Opening(call) => match ready!(call.poll_unpin(cx)) {
                    Ok(Ok(response)) => self.state = State::Open(Box::new(response.into_inner())),
                    Ok(Err(status)) => {
                        self.state = State::Failed;
                        return Poll::Ready(Some(Err(status)));
                    }
                    Err(gone) => {
                        self.state = State::Failed;
                        return Poll::Ready(Some(Err(Status::internal(format!(
                            "the call was lost: {gone}"
                        )))));
                    }
                },
            }
        }
    }
}

impl<T> Drop for Incoming<T> {
    fn drop(&mut self) {
        if let State::Opening(call) = &self.state {
            call.abort();
        }
    }
}
