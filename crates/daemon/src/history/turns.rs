//! Whose turn it is: an answer takes all records into memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// So many answers are made at once,
const AT_ONCE: usize = 2;
/// and so many calls wait for that.
const WAITING: usize = 32;

/// Bounds the answers that are being made. Clones share the bound.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    making: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { making: semaphore(AT_ONCE), waiting: semaphore(WAITING) }
    }
}

impl Turns {
    /// A turn, which lasts until it is dropped; whoever came first is first.
    ///
    /// # Errors
    /// `ResourceExhausted` when too many wait already.
    pub(super) async fn take(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full = |_| {
            let problem = format!("{WAITING} calls wait for answers about builds already; ask again later");
            Status::resource_exhausted(problem)
        };
        let _place = self.waiting.clone().try_acquire_owned().map_err(full)?;
        // Never closed.
        self.making.clone().acquire_owned().await.map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn calls_wait_for_their_turn_and_no_more_than_may() {
        let turns = Turns::default();
        let first = turns.take().await.unwrap();
        let _second = turns.take().await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(turns.take())).collect();
        for call in &mut waiting {
            assert!(call.as_mut().now_or_never().is_none());
        }
        let refused = turns.take().now_or_never().unwrap();
        assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
        drop(waiting.pop());
        assert!(turns.take().now_or_never().is_none(), "who leaves makes room");
        drop(first);
        drop(waiting.remove(0).await.unwrap());
    }
}
