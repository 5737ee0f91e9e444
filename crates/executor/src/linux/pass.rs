//! Messages with descriptors over Unix sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Most descriptors in one message (the kernel's limit is 253).
pub(super) const MAX_FDS: usize = 250;

/// Bytes of a control message with `MAX_FDS` descriptors, and some.
const SPACE: usize = 1088;

/// Two connected sockets, closed by `execve`. `kind` is a stream, or packets that arrive whole.
pub(super) fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// Sends all of `bytes` and, with the first of them, `fds`.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let socket = socket.as_fd();
    let mut sent = send_some(socket, bytes, fds)?;
    while sent < bytes.len() {
        sent += send_some(socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut space = [MaybeUninit::<u8>::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    if sent == 0 && !bytes.is_empty() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(sent) }
}

/// Receives up to `buffer.len()` bytes, and the descriptors that came with them. No byte: the end.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::<u8>::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let socket = socket.as_fd();
    let received = loop {
        match rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(received.bytes)
}

/// Receives exactly `buffer.len()` bytes. `false`: the other side closed before the first of them.
pub(super) fn receive_exact(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<bool> {
    let socket = socket.as_fd();
    let mut filled = 0;
    while filled < buffer.len() {
        match receive(socket, &mut buffer[filled..], fds)? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_travel_with_the_first_byte() {
        let (a, b) = pair(SocketType::STREAM).unwrap();
        let many: Vec<OwnedFd> = (0..MAX_FDS).map(|_| rustix::io::dup(&a).unwrap()).collect();
        let borrowed: Vec<BorrowedFd<'_>> = many.iter().map(AsFd::as_fd).collect();
        send(&a, b"hello", &borrowed).unwrap();
        drop(a);
        drop(many);
        let (mut buffer, mut fds) = ([0; 5], Vec::new());
        assert!(receive_exact(&b, &mut buffer, &mut fds).unwrap());
        assert_eq!((&buffer, fds.len()), (b"hello", MAX_FDS));
        fds.clear();
        assert!(!receive_exact(&b, &mut buffer, &mut fds).unwrap());
    }

    #[test]
    fn too_many_descriptors_are_an_error() {
        let (a, _b) = pair(SocketType::STREAM).unwrap();
        assert!(send(&a, b"x", &vec![a.as_fd(); MAX_FDS + 1]).is_err());
    }
}
