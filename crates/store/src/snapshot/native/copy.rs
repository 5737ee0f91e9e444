//! Copies a tree with all that a file system keeps of it. The trees are ours, so names are taken one folder at a time
//! and links are never followed.

#[cfg(unix)]
pub(super) use unix::tree;
#[cfg(windows)]
pub(super) use windows::tree;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;
