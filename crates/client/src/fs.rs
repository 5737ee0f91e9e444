//! Files that appear whole or not at all.

use std::{io::Write as _, path::Path};

use crate::Error;

/// Writes `data` beside `path` and renames it, so that no reader sees half of it.
///
/// # Errors
/// If the folder cannot be written to.
pub fn write_atomic(path: &Path, data: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".tmp-{name}-{}", kiln_session::random_id()));
    let write = || {
        let mut file = std::fs::File::create_new(&temporary)?;
        file.write_all(data)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // What is left of the attempt is of no use to anybody; the error that matters is the first.
        drop(std::fs::remove_file(&temporary));
        Error::io(format!("writing {}", path.display()))(error)
    })
}
