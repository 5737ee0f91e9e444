use std::path::Path;

use crate::Error;

/// Copies the folder `from` to the new folder `to`.
pub(in super::super) fn tree(from: &Path, to: &Path) -> Result<(), Error> {
    let mut todo = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = todo.pop() {
        std::fs::create_dir(&to).map_err(Error::io("create", &to))?;
        for entry in std::fs::read_dir(&from).map_err(Error::io("list", &from))? {
            let entry = entry.map_err(Error::io("list", &from))?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().map_err(Error::io("stat", &source))?;
            if kind.is_symlink() {
                link(&source, &target).map_err(Error::io("copy", &source))?;
            } else if kind.is_dir() {
                todo.push((source, target));
            } else {
                std::fs::copy(&source, &target).map_err(Error::io("copy", &source))?;
            }
        }
    }
    Ok(())
}

fn link(source: &Path, target: &Path) -> std::io::Result<()> {
    use std::os::windows::fs::{FileTypeExt, symlink_dir, symlink_file};
    let points_to = std::fs::read_link(source)?;
    if std::fs::symlink_metadata(source)?.file_type().is_symlink_dir() {
        symlink_dir(points_to, target)
    } else {
        symlink_file(points_to, target)
    }
}
