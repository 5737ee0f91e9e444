//! The outputs of a process, read in the order in which they came to have something: what it wrote to one before the other is
//! shown before it, also when nobody looked in between.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::BytesMut;
use rustix::event::epoll;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::sys;
use crate::{Output, OutputStream};

/// Most bytes of one chunk of output.
const CHUNK: usize = 32 << 10;

/// The ends of a process's output pipes, or its terminal.
pub(super) struct Outputs {
    /// Its queue keeps the order (epoll(7)).
    queue: AsyncFd<OwnedFd>,
    /// Those that are not at their end, with what the queue calls them.
    open: Vec<(u64, OutputStream, OwnedFd)>,
    buffer: BytesMut,
}

impl Outputs {
    pub(super) fn new(streams: Vec<(OutputStream, OwnedFd)>) -> io::Result<Self> {
        let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut open = Vec::with_capacity(streams.len());
        for (id, (stream, fd)) in (0..).zip(streams) {
            rustix::io::ioctl_fionbio(&fd, true)?;
            epoll::add(&queue, &fd, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
            open.push((id, stream, fd));
        }
        Ok(Self { queue: sys::watch(queue)?, open, buffer: BytesMut::new() })
    }

    /// The first of them: of a terminal, that is it.
    pub(super) fn first(&self) -> Option<BorrowedFd<'_>> {
        self.open.first().map(|(_, _, fd)| fd.as_fd())
    }

    /// Waits until there is something to be read. Safe to be interrupted.
    pub(super) async fn readable(&self) {
        if self.open.is_empty() {
            return std::future::pending().await;
        }
        // What is told may have been read already: then `read` finds nothing and clears it.
        if self.queue.readable().await.is_err() {
            tracing::error!("outputs of a process cannot be waited for");
            std::future::pending().await
        }
    }

    /// Reads one chunk. `None`: there is nothing now.
    pub(super) fn read(&mut self) -> Option<Output> {
        loop {
            let index = self.next().or_else(|| self.next_or_wait())?;
            let (_, stream, fd) = self.open.get(index)?;
            self.buffer.resize(CHUNK, 0);
            match rustix::io::read(fd, &mut self.buffer[..]) {
                Ok(length @ 1..) => {
                    let data = self.buffer.split_to(length).freeze();
                    return Some(Output { stream: *stream, data });
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                // At its end; a terminal whose processes are gone fails to be read.
                Ok(_) | Err(_) => self.remove(index),
            }
        }
    }

    /// The one that has waited longest.
    fn next(&self) -> Option<usize> {
        let mut event =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match epoll::wait(self.queue.get_ref(), &mut event, Some(&now)) {
                Ok(1..) => {
                    let id = event[0].data.u64();
                    return self.open.iter().position(|(own, _, _)| *own == id);
                }
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    fn remove(&mut self, index: usize) {
        let (_, _, fd) = self.open.remove(index);
        // Somebody else may have it open: closing alone would not do.
        if let Err(error) = epoll::delete(self.queue.get_ref(), &fd) {
            tracing::debug!(%error, "an output stays in its queue");
        }
    }

    /// The same; where there is none, the next wait is one. What comes between the two looks is seen by the second.
    fn next_or_wait(&self) -> Option<usize> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let ready = self.queue.poll_read_ready(&mut context);
        let next = self.next();
        if let (None, std::task::Poll::Ready(Ok(mut ready))) = (next, ready) {
            ready.clear_ready();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipes() -> (Outputs, [OwnedFd; 2]) {
        let ((out, out_end), (err, err_end)) = (rustix::pipe::pipe().unwrap(), rustix::pipe::pipe().unwrap());
        let outputs = Outputs::new(vec![(OutputStream::Stdout, out), (OutputStream::Stderr, err)]).unwrap();
        (outputs, [out_end, err_end])
    }

    async fn all(outputs: &mut Outputs) -> String {
        let mut seen = String::new();
        while !outputs.open.is_empty() {
            outputs.readable().await;
            while let Some(Output { stream, data }) = outputs.read() {
                let name = if stream == OutputStream::Stdout { "out" } else { "err" };
                seen += &format!("{name} {}, ", String::from_utf8_lossy(&data));
            }
        }
        seen
    }

    #[tokio::test]
    async fn what_came_first_is_read_first() {
        for first in [0, 1] {
            let (mut outputs, ends) = pipes();
            rustix::io::write(&ends[first], b"one").unwrap();
            rustix::io::write(&ends[1 - first], b"two").unwrap();
            drop(ends);
            let seen = all(&mut outputs).await;
            assert_eq!(seen, if first == 0 { "out one, err two, " } else { "err one, out two, " });
        }
    }

    #[tokio::test]
    async fn the_rest_of_a_line_is_not_overtaken() {
        let (mut outputs, ends) = pipes();
        rustix::io::write(&ends[1], b"sh: ").unwrap();
        assert_eq!(outputs.read().unwrap().data, "sh: ");
        rustix::io::write(&ends[1], b"no such file").unwrap();
        rustix::io::write(&ends[0], b"1").unwrap();
        drop(ends);
        assert_eq!(all(&mut outputs).await, "err no such file, out 1, ");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_that_comes_while_somebody_looks_is_overlooked() {
        let (mut outputs, [out, err]) = pipes();
        let writer = std::thread::spawn(move || {
            for n in 0..20_000_u32 {
                let end = if n % 3 == 0 { &err } else { &out };
                rustix::io::write(end, b"x").unwrap();
                if n % 7 == 0 {
                    std::thread::yield_now();
                }
            }
            (out, err)
        });
        let (mut seen, patience) = (0, std::time::Duration::from_secs(20));
        while seen < 20_000 {
            tokio::time::timeout(patience, outputs.readable()).await.unwrap();
            while let Some(output) = outputs.read() {
                seen += output.data.len();
            }
        }
        drop(writer.join().unwrap());
    }

    #[tokio::test]
    async fn an_output_is_waited_for_while_the_other_is_at_its_end() {
        let (mut outputs, [out, err]) = pipes();
        drop(out);
        assert!(outputs.read().is_none() && !outputs.open.is_empty());
        let later = tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            rustix::io::write(&err, b"late").unwrap();
        });
        assert_eq!(all(&mut outputs).await, "err late, ");
        later.await.unwrap();
    }
}
