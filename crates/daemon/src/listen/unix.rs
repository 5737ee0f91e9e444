//! Unix sockets, and sockets that a service manager hands over.

use std::{
    future::Future,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::fs::{PermissionsExt as _, chown},
    },
    path::Path,
    pin::Pin,
};

use tokio::net::UnixListener;

use super::{Accept, Accepted, Connection};

/// The first descriptor that a service manager hands over (sd_listen_fds(3)).
const FIRST_FD: RawFd = 3;

pub(super) fn open(
    scheme: &str,
    rest: &str,
    owner: (Option<u32>, Option<u32>),
) -> io::Result<Vec<Box<dyn Accept>>> {
    match scheme {
        "unix" => Ok(vec![Box::new(socket(Path::new(rest), owner)?)]),
        "fd" => inherited(rest),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "named pipes are Windows'")),
    }
}

struct Unix(UnixListener);

impl Accept for Unix {
    fn accept(&mut self) -> Pin<Box<dyn Future<Output = Accepted> + Send + '_>> {
        Box::pin(async {
            let (stream, _) = self.0.accept().await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

fn socket(path: &Path, (uid, gid): (Option<u32>, Option<u32>)) -> io::Result<Unix> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // The state folder's lock says that no other daemon runs on it; a socket in the way is a dead one's.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if uid.is_some() || gid.is_some() {
        chown(path, uid, gid)?;
    }
    listener.set_nonblocking(true)?;
    Ok(Unix(UnixListener::from_std(listener)?))
}

/// The sockets of the environment: all of them, or the one of that number or name.
fn inherited(which: &str) -> io::Result<Vec<Box<dyn Accept>>> {
    let bad = |problem: &str| io::Error::new(io::ErrorKind::InvalidInput, problem.to_owned());
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<RawFd>().ok());
    let ours = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    let count = number("LISTEN_FDS")
        .filter(|_| ours)
        .ok_or_else(|| bad("no sockets were handed over (LISTEN_FDS)"))?;
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let wanted = |index: RawFd| {
        let name = usize::try_from(index).ok().and_then(|i| names.get(i)).copied().unwrap_or_default();
        let fd = FIRST_FD + index;
        which.is_empty() || which == "*" || which == name || which.parse() == Ok(fd)
    };
    let fds: Vec<RawFd> = (0..count).filter(|index| wanted(*index)).map(|index| FIRST_FD + index).collect();
    if fds.is_empty() {
        return Err(bad("no such socket was handed over"));
    }
    fds.into_iter().map(take).collect()
}

#[expect(unsafe_code, reason = "a descriptor that was handed over is only a number until it is owned")]
fn take(fd: RawFd) -> io::Result<Box<dyn Accept>> {
    // SAFETY: the service manager opened this descriptor for this process, and nothing else here uses it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    if rustix::net::sockopt::socket_domain(&owned)? == rustix::net::AddressFamily::UNIX {
        let listener = std::os::unix::net::UnixListener::from(owned);
        listener.set_nonblocking(true)?;
        return Ok(Box::new(Unix(UnixListener::from_std(listener)?)));
    }
    let listener = std::net::TcpListener::from(owned);
    listener.set_nonblocking(true)?;
    Ok(Box::new(super::Tcp(tokio::net::TcpListener::from_std(listener)?)))
}
