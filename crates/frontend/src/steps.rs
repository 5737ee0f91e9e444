//! Steps of the builder's own housekeeping, shown among those of the build.

use std::{sync::Arc, time::SystemTime};

use kiln_engine::{Event, ProgressSink, VertexEvent, WarningEvent};
use kiln_oci::Digest;

/// Shows steps that are no vertices of a definition.
#[derive(Clone)]
pub struct Steps {
    sink: Arc<dyn ProgressSink>,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").finish_non_exhaustive()
    }
}

impl Steps {
    /// Shows them to whoever reads `sink`.
    pub fn new(sink: Arc<dyn ProgressSink>) -> Self {
        Self { sink }
    }

    /// Shows `work` as a step called `name`, from its start to its end.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn run<T, E: std::fmt::Display>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let step = Step::start(self.sink.clone(), name);
        let result = work.await;
        step.end(result.as_ref().err().map(ToString::to_string));
        result
    }

    /// Shows a step whose end somebody tells.
    #[must_use]
    pub fn start(&self, name: &str) -> Step {
        Step::start(self.sink.clone(), name)
    }

    /// Tells an event.
    pub fn tell(&self, event: Event) {
        self.sink.event(event);
    }

    /// Shows a warning.
    pub fn warn(&self, warning: WarningEvent) {
        self.tell(Event::Warning(warning));
    }
}

/// A step that is under way; dropped, it has ended well.
pub struct Step {
    sink: Arc<dyn ProgressSink>,
    event: VertexEvent,
}

impl Step {
    fn start(sink: Arc<dyn ProgressSink>, name: &str) -> Self {
        let event = VertexEvent {
            digest: Digest::sha256(kiln_session::random_id()),
            inputs: Arc::new([]),
            name: name.into(),
            started: Some(SystemTime::now()),
            completed: None,
            cached: false,
            error: None,
            progress_group: None,
        };
        sink.event(Event::Vertex(event.clone()));
        Self { sink, event }
    }

    /// The digest under which statuses of the step are told.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.event.digest
    }

    /// The step has ended, with this error if any.
    pub fn end(mut self, error: Option<String>) {
        self.event.error = error.map(Into::into);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.event.completed = Some(SystemTime::now());
        self.sink.event(Event::Vertex(self.event.clone()));
    }
}
