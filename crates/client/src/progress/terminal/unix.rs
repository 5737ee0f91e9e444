//! Asks the terminal on standard error.

/// Columns and rows, if it is a terminal.
pub(super) fn measure() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr()).ok()?;
    Some((size.ws_col.into(), size.ws_row.into()))
}
