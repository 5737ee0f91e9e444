use std::io;
use std::path::Path;

/// Nothing to mark here.
pub(super) fn mark(_dir: &Path) -> io::Result<()> {
    Ok(())
}
