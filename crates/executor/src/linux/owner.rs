//! The task that owns a running process: moves its streams, answers requests, says how it ended, and clears up.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use super::cgroup::Cgroup;
use super::external::FurtherProcesses;
use super::outputs::Outputs;
use super::start::{self, Started, Streams};
use super::wire::MountPoint;
use super::zygote::{Born, Zygote};
use super::{mount_points, sys};
use crate::process::{Ended, Request, SIGKILL};
use crate::{
    Error, Exit, Output, OutputStream, Process, ProcessIo, ProcessSpec, Result, RunSpec, Sample, Stdin,
    WinSize,
};

/// How often a container is measured, and how many measurements are kept before every other is dropped.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const MAX_SAMPLES: usize = 120;

/// What a container's owner has beyond the process.
pub(super) struct Home {
    pub(super) zygote: Zygote,
    pub(super) spec: Arc<RunSpec>,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    pub(super) further: Further,
}

/// How further processes are started.
#[derive(Debug, Clone)]
pub(super) enum Further {
    /// By the zygote.
    Embedded,
    /// By the OCI runtime.
    External(Arc<FurtherProcesses>),
}

/// Takes over a container whose program runs.
pub(super) fn own_container(started: Started, io: ProcessIo, home: Home) -> Process {
    own(started, io, Some(home))
}

fn own(started: Started, io: ProcessIo, home: Option<Home>) -> Process {
    let (requests, asked) = mpsc::unbounded_channel();
    let (ended, watch) = watch::channel(None);
    tokio::spawn(run(started, io, home, asked, ended));
    Process::new(requests, watch)
}

async fn run(
    started: Started,
    io: ProcessIo,
    home: Option<Home>,
    asked: mpsc::UnboundedReceiver<Request>,
    ended: watch::Sender<Ended>,
) {
    let Started { born, streams, message, root, mount_points } = started;
    let root = root.map(Arc::new);
    let result = live(Life { born, streams, message, root: root.as_ref() }, io, home.as_ref(), asked).await;
    let clear = tokio::task::spawn_blocking(move || clear(root, &mount_points, home));
    let oom = clear.await.unwrap_or_default();
    let result = result.map(|exit| Exit { oom_killed: oom, ..exit });
    // Nobody may care.
    ended.send_replace(Some(result.map_err(Arc::new)));
}

/// Nothing of the container runs any more: its traces go. The result: whether it died for lack of memory.
fn clear(root: Option<Arc<OwnedFd>>, mount_points: &[MountPoint], home: Option<Home>) -> bool {
    if let Some(root) = &root {
        mount_points::remove(root.as_fd(), mount_points);
    }
    // The last handle on the root: closing it unmounts.
    drop(root);
    let oom = home.as_ref().and_then(|home| home.cgroup.as_ref()).is_some_and(|cgroup| cgroup.oom_killed());
    drop(home);
    oom
}

/// What a process is while it runs.
struct Life<'a> {
    born: Born,
    streams: Streams,
    message: Option<String>,
    root: Option<&'a Arc<OwnedFd>>,
}

async fn live(
    life: Life<'_>,
    io: ProcessIo,
    home: Option<&Home>,
    mut asked: mpsc::UnboundedReceiver<Request>,
) -> Result<Exit> {
    let Life { mut born, streams, message, root } = life;
    let failed = |source| Error::System { step: "read the output of a process", source };
    let mut pumps = Pumps::new(streams, io).map_err(failed)?;
    if let Some(message) = message {
        pumps.read = Some(Output { stream: OutputStream::Stderr, data: Bytes::from(message) });
    }
    let mut samples = Samples::new(home.and_then(|home| home.cgroup.clone()).filter(|_| wants_samples(home)));
    let (mut handles, mut killed) = (true, false);
    let status = loop {
        tokio::select! {
            status = &mut born.ended => break status,
            () = pumps.turn() => {}
            request = asked.recv(), if handles => match request {
                Some(Request::Signal(signal)) => {
                    killed |= signal == SIGKILL;
                    signal_process(&born.pidfd, signal);
                }
                Some(Request::Resize(size)) => pumps.resize(size),
                Some(Request::Exec { spec, io, reply }) => exec(home, &born.pidfd, root, (*spec, io, reply)),
                // Nobody holds it any more.
                None => {
                    signal_process(&born.pidfd, SIGKILL);
                    (handles, killed) = (false, true);
                }
            },
            () = samples.tick() => {}
        }
    };
    pumps.drain(killed).await;
    let status = status.map_err(|_| Error::Lost)?;
    Ok(Exit { code: code(status), oom_killed: false, samples: samples.finish() })
}

fn wants_samples(home: Option<&Home>) -> bool {
    home.is_some_and(|home| home.spec.samples)
}

fn signal_process(pidfd: &OwnedFd, signal: i32) {
    if let Err(error) = sys::pidfd_signal(pidfd.as_fd(), signal) {
        tracing::debug!(%error, signal, "signal not delivered");
    }
}

/// The exit code of a wait status, as shells and OCI runtimes tell it.
fn code(status: i32) -> u32 {
    let signal = status & 0x7f;
    if signal == 0 { (status >> 8 & 0xff) as u32 } else { 128 + signal as u32 }
}

fn exec(
    home: Option<&Home>,
    pidfd: &Arc<OwnedFd>,
    root: Option<&Arc<OwnedFd>>,
    (spec, io, reply): (ProcessSpec, ProcessIo, oneshot::Sender<Result<Process>>),
) {
    let (Some(Home { zygote, spec: first, cgroup, further }), Some(root)) = (home, root) else {
        let unsupported =
            Error::Unsupported { feature: "exec".to_owned(), place: "in a process that is no container" };
        _ = reply.send(Err(unsupported));
        return;
    };
    let (zygote, first, cgroup, pidfd) = (zygote.clone(), first.clone(), cgroup.clone(), pidfd.clone());
    let (further, root) = (further.clone(), root.clone());
    tokio::spawn(async move {
        let process =
            start_further(zygote, first, pidfd, spec, io, move |born, spec, first, stdin| match further {
                Further::Embedded => {
                    let doors = cgroup.map(|cgroup| cgroup.doors(true)).transpose();
                    let doors = doors.map_err(|source| Error::System { step: "open a cgroup", source })?;
                    start::further(born, spec, first, stdin, doors.unwrap_or_default())
                }
                Further::External(further) => further.start(born, spec, first, stdin, root.as_fd()),
            });
        // If nobody waits for it any more, dropping it kills it.
        drop(reply.send(process.await));
    });
}

async fn start_further(
    zygote: Zygote,
    first: Arc<RunSpec>,
    pidfd: Arc<OwnedFd>,
    spec: ProcessSpec,
    io: ProcessIo,
    start: impl FnOnce(Born, &ProcessSpec, &RunSpec, &Stdin) -> Result<Started> + Send + 'static,
) -> Result<Process> {
    start::check_process(&spec)?;
    let born = zygote.exec(pidfd).await.map_err(|error| {
        tracing::debug!(%error, container = first.id, "cannot start a further process");
        Error::NotRunning(first.id.clone())
    })?;
    let started = tokio::task::spawn_blocking(move || {
        start(born, &spec, &first, &io.stdin).map(|started| (started, io))
    });
    let (started, io) = started.await.map_err(|_| Error::Lost)??;
    Ok(own(started, io, None))
}

/// Measurements, if they are wanted.
struct Samples {
    cgroup: Option<Arc<Cgroup>>,
    taken: Vec<Sample>,
    every: Duration,
}

impl Samples {
    fn new(cgroup: Option<Arc<Cgroup>>) -> Self {
        Self { cgroup, taken: Vec::new(), every: SAMPLE_EVERY }
    }

    async fn tick(&mut self) {
        match &self.cgroup {
            None => std::future::pending().await,
            Some(cgroup) => {
                tokio::time::sleep(self.every).await;
                self.taken.push(cgroup.sample());
                if self.taken.len() >= MAX_SAMPLES {
                    let mut keep = false;
                    self.taken.retain(|_| {
                        keep = !keep;
                        keep
                    });
                    self.every *= 2;
                }
            }
        }
    }

    fn finish(mut self) -> Vec<Sample> {
        if let Some(cgroup) = &self.cgroup {
            self.taken.push(cgroup.sample());
        }
        self.taken
    }
}

/// What became of waiting for output.
enum Turn {
    /// What was read is in the channel.
    Sent,
    /// Nobody wants it.
    Nobody,
    /// A stream has data, or is at its end.
    Readable,
}

/// The streams of a process, moved as data comes.
struct Pumps {
    outputs: Outputs,
    input: Option<AsyncFd<OwnedFd>>,
    stdin: Option<mpsc::Receiver<Bytes>>,
    /// Input that was taken from the channel but not by the process.
    pending: Bytes,
    output: Option<mpsc::Sender<Output>>,
    /// Output that was read but is not in the channel yet.
    read: Option<Output>,
    terminal: bool,
}

impl Pumps {
    fn new(streams: Streams, io: ProcessIo) -> io::Result<Self> {
        let ProcessIo { stdin, output } = io;
        let stdin = match stdin {
            Stdin::Null => None,
            Stdin::Channel(channel) => Some(channel),
        };
        let terminal = matches!(streams, Streams::Terminal(_));
        let (outputs, input) = match streams {
            Streams::Pipes { stdin, stdout, stderr } => (
                vec![(OutputStream::Stdout, stdout), (OutputStream::Stderr, stderr)],
                stdin.map(sys::watch).transpose()?,
            ),
            Streams::Terminal(master) => {
                let input = stdin.is_some().then(|| master.try_clone().and_then(sys::watch)).transpose()?;
                (vec![(OutputStream::Stdout, master)], input)
            }
        };
        let outputs = Outputs::new(outputs)?;
        Ok(Self { outputs, input, stdin, pending: Bytes::new(), output, read: None, terminal })
    }

    /// Moves something; waits until there is something to move. Whatever interrupts it, nothing is lost.
    async fn turn(&mut self) {
        let Self { outputs, input, stdin, pending, output, read, .. } = self;
        let forward = async {
            match (read.is_some(), output.as_ref()) {
                (false, _) => {
                    outputs.readable().await;
                    Turn::Readable
                }
                (true, None) => Turn::Nobody,
                // No more is read while this waits, so that the process waits as well.
                (true, Some(channel)) => match channel.reserve().await {
                    Ok(room) => {
                        if let Some(data) = read.take() {
                            room.send(data);
                        }
                        Turn::Sent
                    }
                    Err(_) => Turn::Nobody,
                },
            }
        };
        let turn = tokio::select! {
            turn = forward => turn,
            () = feed(input, stdin, pending) => return,
        };
        match turn {
            Turn::Sent => {}
            Turn::Nobody => (self.output, self.read) = (None, None),
            Turn::Readable => self.read = self.outputs.read(),
        }
    }

    /// Every process that could write is gone, so what is in the pipes now is all there will ever be. `killed`: nobody
    /// may want it any more, so nobody is waited for.
    async fn drain(&mut self, killed: bool) {
        loop {
            if let (Some(data), Some(output)) = (self.read.take(), &self.output) {
                let gone =
                    if killed { output.try_send(data).is_err() } else { output.send(data).await.is_err() };
                if gone {
                    self.output = None;
                }
            }
            if self.output.is_none() {
                return;
            }
            // Somebody outside may have one open that is empty.
            self.read = self.outputs.read();
            if self.read.is_none() {
                return;
            }
        }
    }

    fn resize(&self, size: WinSize) {
        if !self.terminal {
            return;
        }
        if let Some(master) = self.outputs.first() {
            let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
            if let Err(error) = rustix::termios::tcsetwinsize(master, size) {
                tracing::debug!(%error, "cannot resize the terminal");
            }
        }
    }
}

/// Moves input to the process; what it does not take now stays in `pending`. Safe to be interrupted.
async fn feed(
    input: &mut Option<AsyncFd<OwnedFd>>,
    stdin: &mut Option<mpsc::Receiver<Bytes>>,
    pending: &mut Bytes,
) {
    let Some(fd) = input else { return std::future::pending().await };
    if pending.is_empty() {
        let next = match stdin {
            Some(channel) => channel.recv().await,
            None => None,
        };
        match next {
            Some(bytes) => *pending = bytes,
            None => {
                *stdin = None;
                *input = None;
                return;
            }
        }
    }
    while !pending.is_empty() {
        let Ok(mut ready) = fd.writable().await else { break };
        match ready.try_io(|fd| rustix::io::write(fd, pending).map_err(Into::into)) {
            Err(_would_block) => {}
            Ok(Ok(written)) => drop(pending.split_to(written)),
            // It reads no more.
            Ok(Err(_)) => {
                drop(ready);
                *input = None;
                *stdin = None;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_shells() {
        assert_eq!(code(0), 0);
        assert_eq!(code(37 << 8), 37);
        assert_eq!(code(9), 137);
        assert_eq!(code(11 | 0x80), 139);
        assert_eq!(code(255 << 8), 255);
    }
}
