//! Requests whose bodies take their time: what counts is that something moves.

use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::BodyDataStream;
use reqwest::{Body, RequestBuilder, Response};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// How long a request may stand still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Sends a request. `None`: nothing moved for [`PATIENCE`].
pub(crate) async fn send(
    request: RequestBuilder,
    body: Option<Body>,
) -> Option<Result<Response, reqwest::Error>> {
    let (moves, moved) = watch::channel(());
    let request = match body {
        None => request,
        // All of it is here, and its length is known.
        Some(body) if body.as_bytes().is_some() => request.body(body),
        Some(body) => request.body(watched(body, moves)),
    };
    tokio::select! {
        response = request.send() => Some(response),
        () = stand_still(moved) => None,
    }
}

/// A body that says when a part of it was taken.
fn watched(body: Body, moves: watch::Sender<()>) -> Body {
    Body::wrap_stream(BodyDataStream::new(body).inspect(move |_| {
        moves.send_replace(());
    }))
}

/// Returns when nothing has moved for long. What has no more to move must be answered.
async fn stand_still(mut moved: watch::Receiver<()>) {
    while let Ok(moved) = timeout(PATIENCE, moved.changed()).await {
        if moved.is_err() {
            return sleep(PATIENCE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_may_take_its_time() {
        let began = tokio::time::Instant::now();
        let (moves, moved) = watch::channel(());
        let still = tokio::spawn(stand_still(moved));
        for _ in 0..10 {
            sleep(PATIENCE / 2).await;
            moves.send_replace(());
        }
        assert!(!still.is_finished());
        still.await.unwrap();
        assert_eq!(began.elapsed(), PATIENCE * 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_sent_must_be_answered() {
        let began = tokio::time::Instant::now();
        let (moves, moved) = watch::channel(());
        drop(moves);
        stand_still(moved).await;
        assert_eq!(began.elapsed(), PATIENCE);
    }
}
