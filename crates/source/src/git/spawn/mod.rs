//! Starting git: what differs by the host.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(super) use unix::{Group, NULL, prepare};
#[cfg(windows)]
pub(super) use windows::{Group, NULL, prepare};
