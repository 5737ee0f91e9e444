//! Trying again what may pass.

use std::time::Duration;

use crate::Error;

/// Tries in all.
const TRIES: u32 = 5;
/// Before the second try; doubled before each that follows.
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// The delay before try number `next` (the first is 0), or `None` when there have been enough.
pub(crate) fn delay(next: u32) -> Option<Duration> {
    (next < TRIES).then(|| FIRST_DELAY * 2_u32.pow(next.saturating_sub(1)))
}

/// Calls `attempt` until it succeeds, fails for good or has failed too often.
pub(crate) async fn retry<T, F, Fut>(mut attempt: F) -> Result<T, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let mut tried = 0;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        tried += 1;
        match delay(tried) {
            Some(delay) if error.is_transient() => {
                tracing::warn!(%error, ?delay, "trying again");
                tokio::time::sleep(delay).await;
            }
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use http::StatusCode;

    use super::*;

    fn status(status: StatusCode) -> Error {
        Error::Status { method: "GET", url: "u".into(), status, message: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
        for (code, tries) in [(StatusCode::BAD_GATEWAY, TRIES), (StatusCode::BAD_REQUEST, 1)] {
            let count = Cell::new(0);
            let result = retry(async || {
                count.set(count.get() + 1);
                Err::<(), _>(status(code))
            });
            assert!(result.await.is_err());
            assert_eq!(count.get(), tries, "{code}");
        }
    }
}
