//! Handles on running containers and processes: a request channel to the task that owns each, and its end.

use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};

use crate::{Error, ProcessIo, ProcessSpec, Result};

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WinSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub cols: u16,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exit {
    /// Its exit code; 128 + number for a signal; 1 if the program could not be loaded.
    pub code: u32,
    /// The kernel killed a process of the container because memory ran out.
    pub oom_killed: bool,
    /// What was measured while it ran, if [`samples`](crate::RunSpec::samples) were asked for.
    pub samples: Vec<Sample>,
}

/// One measurement of a container's cgroup. `None`: the kernel does not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// When it was taken.
    pub at: Option<SystemTime>,
    /// CPU time in nanoseconds: all, in user mode, in the kernel.
    pub cpu_nanos: Option<(u64, u64, u64)>,
    /// Memory.
    pub memory: Option<MemoryUse>,
    /// Bytes read and written on block devices.
    pub io_bytes: Option<(u64, u64)>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
}

/// Memory of a container, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// In use now.
    pub current: u64,
    /// Most in use at any time.
    pub peak: Option<u64>,
    /// Processes that were killed because memory ran out.
    pub oom_kills: u64,
}

/// What the owner of a process is asked.
#[derive(Debug)]
pub(crate) enum Request {
    Signal(i32),
    Resize(WinSize),
    Exec { spec: Box<ProcessSpec>, io: ProcessIo, reply: oneshot::Sender<Result<Process>> },
}

/// How a process ended, as its owner tells it: unset while it runs.
pub(crate) type Ended = Option<std::result::Result<Exit, std::sync::Arc<Error>>>;

/// A running process. Dropping the handle of a container's process that was started by [`Container::exec`] kills it.
#[derive(Debug)]
pub struct Process {
    requests: mpsc::UnboundedSender<Request>,
    ended: watch::Receiver<Ended>,
}

impl Process {
    /// A handle whose owner reads `requests` and writes `ended`.
    pub(crate) fn new(requests: mpsc::UnboundedSender<Request>, ended: watch::Receiver<Ended>) -> Self {
        Self { requests, ended }
    }

    /// Waits for its end: all output was delivered. May be called again.
    ///
    /// # Errors
    ///
    /// [`Error`] if the executor lost it.
    pub async fn wait(&self) -> Result<Exit> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => match &*ended {
                Some(Ok(exit)) => Ok(exit.clone()),
                Some(Err(error)) => Err(Error::Ended(error.clone())),
                None => Err(Error::Lost),
            },
            Err(_) => Err(Error::Lost),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Sends a signal by its number; one to a process that is gone goes nowhere.
    pub fn signal(&self, signal: i32) {
        // The owner is gone when the process is.
        drop(self.requests.send(Request::Signal(signal)));
    }

    /// Kills it (a container's first process: with everything in the container).
    pub fn kill(&self) {
        self.signal(SIGKILL);
    }

    /// Tells the process's terminal its new size.
    pub fn resize(&self, size: WinSize) {
        drop(self.requests.send(Request::Resize(size)));
    }
}

/// Linux's and every Unix's number of it.
pub(crate) const SIGKILL: i32 = 9;

/// A running container. Dropping it kills its processes; its executor then clears away what they leave.
#[derive(Debug)]
pub struct Container {
    id: String,
    init: Process,
}

impl Container {
    pub(crate) fn new(id: String, init: Process) -> Self {
        Self { id, init }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the end of its first process, after which no other process of it is left, its root is unmounted and
    /// mount points that had to be made are removed. May be called again.
    ///
    /// # Errors
    ///
    /// [`Error`] if the executor lost it.
    pub async fn wait(&self) -> Result<Exit> {
        self.init.wait().await
    }

    /// Whether its first process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.init.has_ended()
    }

    /// Runs another process in it.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] or [`Error::Lost`] if the container has ended, else as [`Executor::start`](crate::Executor::start).
    pub async fn exec(&self, spec: ProcessSpec, io: ProcessIo) -> Result<Process> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Exec { spec: Box::new(spec), io, reply };
        self.init.requests.send(request).map_err(|_| Error::NotRunning(self.id.clone()))?;
        answer.await.map_err(|_| Error::NotRunning(self.id.clone()))?
    }

    /// Sends a signal to its first process.
    pub fn signal(&self, signal: i32) {
        self.init.signal(signal);
    }

    /// Kills every process of it.
    pub fn kill(&self) {
        self.init.kill();
    }

    /// Tells the first process's terminal its new size.
    pub fn resize(&self, size: WinSize) {
        self.init.resize(size);
    }
}
