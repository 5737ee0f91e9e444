//! Trying again what may pass.

use std::time::Duration;

use crate::Error;

/// Tries in all.
const TRIES: u32 = 5;
/// Before the second try; doubled before each that follows.
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// The longest time that a registry may ask to be left alone: a build that stands still for longer is better ended.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The delay before try number `next` (the first is 0) after `error`, or `None` when there have been enough.
pub(crate) fn delay(next: u32, error: &Error) -> Option<Duration> {
    let own = FIRST_DELAY * 2_u32.pow(next.saturating_sub(1));
    let delay = error.retry_after().map_or(own, |asked| asked.max(own));
    (next < TRIES && delay <= LONGEST_WAIT).then_some(delay)
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
        match delay(tried, &error) {
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
        Error::Status { method: "GET", url: "u".into(), status, message: String::new(), retry_after: None }
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

    #[test]
    fn a_registry_is_left_alone_for_as_long_as_it_asks() {
        let asks = |seconds| Error::Status {
            method: "HEAD",
            url: "u".into(),
            status: StatusCode::TOO_MANY_REQUESTS,
            message: "slow down".into(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(delay(1, &asks(0)), Some(FIRST_DELAY));
        assert_eq!(delay(1, &asks(7)), Some(Duration::from_secs(7)));
        assert_eq!(delay(TRIES, &asks(7)), None);
        // Hours are not waited for, but told.
        assert_eq!(delay(1, &asks(21_600)), None);
        assert_eq!(
            asks(21_600).to_string(),
            "HEAD u: 429 Too Many Requests: slow down (the registry asks to come back in 21600 s)"
        );
    }
}
