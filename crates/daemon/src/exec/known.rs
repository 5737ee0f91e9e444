//! The processes of one stream by the names that its client gave them.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use kiln_executor::WinSize;
use tokio::sync::mpsc::Sender;
use tonic::Status;

/// How many processes one stream runs at once.
const MAX_RUNNING: usize = 1024;
/// Of how many processes that have ended a stream knows the names: a client may speak to one before it hears of its end.
const MAX_ENDED: usize = 1024;
/// The longest name of a process, in bytes.
const MAX_NAME: usize = 256;

/// What a process is told beside its input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Control {
    Signal(i32),
    Resize(WinSize),
}

/// How a process is spoken to.
#[derive(Debug)]
pub(super) struct Handle {
    /// `None` when it takes no input, or no more.
    pub(super) input: Option<Sender<Bytes>>,
    pub(super) control: Sender<Control>,
}

impl Handle {
    /// Tells a process something; waits while it has heard too much of that kind. One that is gone needs to know nothing.
    pub(super) async fn tell(&self, control: Control) {
        drop(self.control.send(control).await);
    }
}

/// The processes of a stream: those that run, and the last of those that have ended.
#[derive(Debug, Default)]
pub(super) struct Known {
    handles: HashMap<String, Handle>,
    /// The oldest first.
    ended: VecDeque<String>,
}

impl Known {
    /// Whether a process may be started under this name.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no name, `AlreadyExists` for one that is known, `ResourceExhausted` when too many run.
    pub(super) fn check(&self, name: &str) -> Result<(), Status> {
        if name.len() > MAX_NAME {
            let problem = format!("the name of a process has 1 to {MAX_NAME} bytes, not {}", name.len());
            return Err(Status::invalid_argument(problem));
        }
        if self.handles.contains_key(name) {
            return Err(Status::already_exists(format!("Process {name} already exists")));
        }
        if self.handles.len() - self.ended.len() >= MAX_RUNNING {
            let problem = format!("{MAX_RUNNING} processes run already; wait for some");
            return Err(Status::resource_exhausted(problem));
        }
        Ok(())
    }

    /// Enters a process whose name was checked.
    pub(super) fn enter(&mut self, name: String, handle: Handle) {
        self.handles.insert(name, handle);
    }

    /// The process of that name, if it is known.
    pub(super) fn find(&mut self, name: &str) -> Result<&mut Handle, Status> {
        let missing = || Status::not_found(format!("IO for process {name:?} not found"));
        self.handles.get_mut(name).ok_or_else(missing)
    }

    /// A process that was entered has ended. The one that did so longest ago may be forgotten for it.
    pub(super) fn ended(&mut self, name: String) {
        self.ended.push_back(name);
        if self.ended.len() > MAX_ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.handles.remove(&oldest);
        }
    }

    /// No process gets more input.
    pub(super) fn close_inputs(&mut self) {
        self.handles.values_mut().for_each(|handle| handle.input = None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::mpsc, time::timeout};
    use tonic::Code;

    use super::*;

    fn handle() -> Handle {
        Handle { input: None, control: mpsc::channel(1).0 }
    }

    #[test]
    fn no_more_run_at_once_than_may() {
        let mut known = Known::default();
        let start = |known: &mut Known, name: usize| {
            let name = name.to_string();
            known.check(&name).map(|()| known.enter(name, handle())).map_err(|status| status.code())
        };
        for name in 0..MAX_RUNNING {
            start(&mut known, name).unwrap();
        }
        assert_eq!(start(&mut known, MAX_RUNNING), Err(Code::ResourceExhausted));
        known.ended("7".into());
        assert_eq!(start(&mut known, MAX_RUNNING), Ok(()));
        assert_eq!(start(&mut known, 7), Err(Code::AlreadyExists), "its name is still known");
    }

    #[test]
    fn those_that_ended_long_ago_are_forgotten() {
        let mut known = Known::default();
        for name in 0..MAX_ENDED + 2 {
            known.check(&name.to_string()).unwrap();
            known.enter(name.to_string(), handle());
            known.ended(name.to_string());
        }
        assert_eq!((known.handles.len(), known.ended.len()), (MAX_ENDED, MAX_ENDED));
        assert_eq!(known.find("1").unwrap_err().code(), Code::NotFound);
        assert!(known.find("2").is_ok());
    }

    #[test]
    fn names_have_a_length() {
        let known = Known::default();
        assert!(known.check(&"n".repeat(MAX_NAME)).is_ok());
        assert_eq!(known.check(&"n".repeat(MAX_NAME + 1)).unwrap_err().code(), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn whoever_signals_a_process_too_often_has_to_wait() {
        let (control, mut controls) = mpsc::channel(1);
        let handle = Handle { input: None, control };
        handle.tell(Control::Signal(1)).await;
        let waiting = timeout(Duration::from_millis(10), handle.tell(Control::Signal(2))).await;
        assert!(waiting.is_err(), "nobody has heard the first");
        assert_eq!(controls.recv().await, Some(Control::Signal(1)));
        handle.tell(Control::Signal(3)).await;
        drop(controls);
        handle.tell(Control::Signal(4)).await;
    }
}
