//! Connections within this host: a Unix socket or a named pipe.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::connect_local;
#[cfg(windows)]
pub use windows::connect_local;
