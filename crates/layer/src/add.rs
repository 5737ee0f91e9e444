//! Unpacks the archives that `ADD` finds among its sources, by the rules that Docker's users know:
//!
//! - an archive is told by its content: tar, plain or in gzip, bzip2, xz or zstd;
//! - owners in it are dropped in favour of one owner, extended attributes other than file capabilities too;
//! - names with the whiteout prefix are plain files;
//! - names stay below the destination, wherever they climb or links lead; what a link points to must be there to be
//!   written to;
//! - a folder onto a folder only takes the new metadata, anything else is replaced.

use std::{io::Read, path::Path};

use kiln_fstree::Root;

use crate::{compress::decompress, error::Result, tar::TarReader};

/// How to unpack an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Owner and group of every entry; root if not said otherwise. Folders without an entry are root's.
    pub owner: (u32, u32),
    /// The most bytes that the files may have together; more is an error.
    pub max_size: Option<u64>,
}

/// Whether `input` is a tar archive in any known compression, with at least one entry.
pub fn is_archive<R: Read + Send + 'static>(input: R) -> bool {
    let Ok(stream) = decompress(input) else { return false };
    matches!(TarReader::new(stream).next_entry(), Ok(Some(_)))
}

/// Unpacks the archive `input` into the folder `dest` of `root`, which must be there.
///
/// # Errors
///
/// As [`crate::Error`] says; entries before the broken one have been made.
pub fn unpack<R: Read + Send + 'static>(
    input: R,
    root: &Root,
    dest: &Path,
    options: &UnpackOptions,
) -> Result<()> {
    imp::unpack(decompress(input)?, root, dest, options)
}

#[cfg(unix)]
mod imp {
    use std::{
        os::{fd::AsFd, unix::ffi::OsStrExt},
        path::Path,
    };

    use kiln_fstree::Root;
    use rustix::fs::OFlags;

    use super::UnpackOptions;
    use crate::{
        apply::tree::{Attributes, Tree, clean, open_in_root},
        compress::Decompressed,
        error::{Error, Result},
        tar::TarReader,
    };

    pub(super) fn unpack(
        input: Decompressed,
        root: &Root,
        dest: &Path,
        options: &UnpackOptions,
    ) -> Result<()> {
        let path = dest.as_os_str().as_bytes();
        let folder = open_in_root(root.as_fd(), path, OFlags::DIRECTORY | OFlags::RDONLY)
            .map_err(|error| Error::unpack(path, "open the destination", error))?;
        let mut tar = TarReader::new(input);
        let mut tree = Tree::new(folder.as_fd(), false, options.max_size);
        while let Some(mut header) = tar.next_entry()? {
            header.path = clean(&header.path);
            if header.path.is_empty() {
                continue;
            }
            (header.uid, header.gid) = (options.owner.0.into(), options.owner.1.into());
            let mut attributes = Attributes::of(&header)?;
            attributes.xattrs.retain(|(name, _)| *name == b"security.capability");
            tree.create(&header, &attributes, &mut tar)?;
        }
        tree.finish()?;
        Ok(())
    }
}

#[cfg(not(unix))]
mod imp {
    use std::path::Path;

    use kiln_fstree::Root;

    use super::UnpackOptions;
    use crate::{
        compress::Decompressed,
        error::{Error, Result},
    };

    pub(super) fn unpack(_: Decompressed, _: &Root, _: &Path, _: &UnpackOptions) -> Result<()> {
        Err(Error::Unsupported("unpacking archives on this system".into()))
    }
}
