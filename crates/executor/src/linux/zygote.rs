//! The daemon's side of a zygote: one task that owns the control socket and says to everybody what became of theirs.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;

use rustix::net::SocketType;
use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::wire::{HOST, INTO_CGROUP, Kind, PACKET, Packet};
use super::{cgroup, exe, pass, sys};

/// How to start a zygote.
pub(super) struct Options {
    /// Flags of its containers ([`SANDBOX`](super::wire::SANDBOX), [`NODEV`](super::wire::NODEV)).
    pub(super) flags: u64,
    /// The cgroup it lives in.
    pub(super) cgroup: Option<cgroup::Sandbox>,
    /// Its and its containers' `oom_score_adj`.
    pub(super) oom_score_adj: Option<i32>,
}

/// A running zygote. When the last copy is dropped, it and all its containers end.
#[derive(Debug, Clone)]
pub(super) struct Zygote {
    asks: mpsc::UnboundedSender<Ask>,
}

/// A handle that does not keep its zygote alive.
#[derive(Debug)]
pub(super) struct WeakZygote(mpsc::WeakUnboundedSender<Ask>);

impl WeakZygote {
    /// Whether it can be used no more.
    pub(super) fn is_gone(&self) -> bool {
        self.0.upgrade().is_none_or(|asks| asks.is_closed())
    }
}

#[derive(Debug)]
enum Ask {
    Start { cgroup: Option<OwnedFd>, reply: Reply },
    Exec { container: Arc<OwnedFd>, reply: Reply },
    Shutdown { done: oneshot::Sender<()> },
}

type Reply = oneshot::Sender<io::Result<Born>>;

/// A process that waits for its setup. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Born {
    /// Where its setup goes.
    pub(super) socket: Option<OwnedFd>,
    /// A handle on it.
    pub(super) pidfd: Arc<OwnedFd>,
    /// Its wait status, once it has ended.
    pub(super) ended: oneshot::Receiver<i32>,
}

impl Drop for Born {
    fn drop(&mut self) {
        // One that has ended is not hurt.
        _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Zygote {
    /// Starts one. Blocks for the start of a process. Must be called in a runtime.
    pub(super) fn spawn(executable: &OwnedFd, options: Options) -> io::Result<Self> {
        let (ours, theirs) = pass::pair(SocketType::SEQPACKET)?;
        let child = exe::spawn(executable, theirs, options.flags & HOST != 0)?;
        if let Some(cgroup) = &options.cgroup {
            cgroup.admit(child.id())?;
        }
        if let Some(score) = options.oom_score_adj {
            std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), score.to_string())?;
        }
        let (asks, asked) = mpsc::unbounded_channel();
        let owner = Owner {
            control: sys::watch(ours)?,
            child,
            options,
            next: 0,
            births: HashMap::new(),
            living: HashMap::new(),
        };
        tokio::spawn(owner.run(asked));
        Ok(Self { asks })
    }

    /// Whether it can be used no more.
    pub(super) fn is_gone(&self) -> bool {
        self.asks.is_closed()
    }

    /// How many copies of this handle there are.
    pub(super) fn copies(&self) -> usize {
        self.asks.strong_count()
    }

    /// A handle that does not keep it alive.
    pub(super) fn downgrade(&self) -> WeakZygote {
        WeakZygote(self.asks.downgrade())
    }

    /// Forks a container's first process, in `cgroup` (v2) if given.
    pub(super) async fn start(&self, cgroup: Option<OwnedFd>) -> io::Result<Born> {
        self.ask(|reply| Ask::Start { cgroup, reply }).await
    }

    /// Forks a further process for a container.
    pub(super) async fn exec(&self, container: Arc<OwnedFd>) -> io::Result<Born> {
        self.ask(|reply| Ask::Exec { container, reply }).await
    }

    /// Ends it and all its containers.
    pub(super) async fn shutdown(&self) {
        let (done, finished) = oneshot::channel();
        if self.asks.send(Ask::Shutdown { done }).is_ok() {
            // An error says that it is gone already.
            _ = finished.await;
        }
    }

    async fn ask(&self, ask: impl FnOnce(Reply) -> Ask) -> io::Result<Born> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the runtime helper is gone");
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

struct Birth {
    reply: Reply,
    socket: OwnedFd,
}

struct Owner {
    control: AsyncFd<OwnedFd>,
    child: Child,
    options: Options,
    next: u64,
    /// Asked for, not born yet.
    births: HashMap<u64, Birth>,
    living: HashMap<u64, oneshot::Sender<i32>>,
}

impl Owner {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Ask>) {
        let done = loop {
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(Ask::Start { cgroup, reply }) => self.start(cgroup, reply),
                    Some(Ask::Exec { container, reply }) => self.exec(&container, reply),
                    Some(Ask::Shutdown { done }) => break Some(done),
                    None => break None,
                },
                told = Self::hear(&self.control) => match told {
                    Ok(Some((packet, fds))) => self.told(packet, fds),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the runtime helper is gone");
                        break None;
                    }
                },
            }
        };
        asked.close();
        let Self { control, mut child, options, .. } = self;
        // Its end closes here: it kills what is left, and ends.
        drop(control);
        let finish = move || {
            if let Err(error) = child.wait() {
                tracing::warn!(%error, "cannot wait for the runtime helper");
            }
            drop(options);
        };
        if let Err(error) = tokio::task::spawn_blocking(finish).await {
            tracing::debug!(%error, "the runtime ends before its helper does");
        }
        if let Some(done) = done {
            _ = done.send(());
        }
    }

    fn start(&mut self, cgroup: Option<OwnedFd>, reply: Reply) {
        let into = if cgroup.is_some() { INTO_CGROUP } else { 0 };
        let flags = self.options.flags | into;
        self.fork(Kind::Start, flags, cgroup.as_ref().map(AsFd::as_fd), reply);
    }

    fn exec(&mut self, container: &OwnedFd, reply: Reply) {
        self.fork(Kind::Exec, 0, Some(container.as_fd()), reply);
    }

    fn fork(&mut self, kind: Kind, value: u64, fd: Option<BorrowedFd<'_>>, reply: Reply) {
        self.next += 1;
        let id = self.next;
        let packet = Packet { kind, id, value }.encode();
        let sent = pass::pair(SocketType::STREAM).and_then(|(socket, theirs)| {
            let mut fds = vec![theirs.as_fd()];
            fds.extend(fd);
            pass::send(self.control.get_ref(), &packet, &fds)?;
            Ok(socket)
        });
        match sent {
            Ok(socket) => drop(self.births.insert(id, Birth { reply, socket })),
            Err(error) => _ = reply.send(Err(error)),
        }
    }

    async fn hear(control: &AsyncFd<OwnedFd>) -> io::Result<Option<(Packet, Vec<OwnedFd>)>> {
        loop {
            let mut ready = control.readable().await?;
            let (mut bytes, mut fds) = ([0; PACKET], Vec::new());
            match ready.try_io(|control| pass::receive(control, &mut bytes, &mut fds)) {
                Err(_would_block) => {}
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok(length)) => return Ok(Packet::decode(&bytes[..length]).map(|packet| (packet, fds))),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    fn told(&mut self, packet: Packet, fds: Vec<OwnedFd>) {
        match packet.kind {
            Kind::Born => {
                let Some(Birth { reply, socket }) = self.births.remove(&packet.id) else { return };
                let Some(pidfd) = fds.into_iter().next() else { return };
                let (end, ended) = oneshot::channel();
                self.living.insert(packet.id, end);
                let born = Born { socket: Some(socket), pidfd: Arc::new(pidfd), ended };
                // Nobody wants it any more: dropping it kills it.
                drop(reply.send(Ok(born)));
            }
            Kind::Failed => {
                if let Some(birth) = self.births.remove(&packet.id) {
                    _ = birth.reply.send(Err(io::Error::from_raw_os_error(packet.value as i32)));
                }
            }
            Kind::Ended => {
                if let Some(end) = self.living.remove(&packet.id) {
                    _ = end.send(packet.value as i32);
                }
            }
            Kind::Start | Kind::Exec => {}
        }
    }
}
