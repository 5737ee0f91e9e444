//! The size of the terminal that progress is drawn on.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix::measure;
#[cfg(windows)]
use windows::measure;

/// Columns and rows; what no terminal says is what most have had.
pub(super) fn size() -> (usize, usize) {
    measure().filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24))
}
