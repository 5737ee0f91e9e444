//! Unpacks the archives that `ADD` finds among its sources, by the rules that Docker's users know:
//!
//! - an archive is told by its content: tar, plain or in gzip, bzip2, xz or zstd;
//! - owners in it give way to one owner if that is asked for; extended attributes other than file capabilities are dropped;
//! - names with the whiteout prefix are plain files;
//! - names stay below the destination, wherever they climb or links lead; what a link points to must be there to be
//!   written to;
//! - a folder onto a folder only takes the new metadata, anything else is replaced.

use std::{
    io::{self, BufRead, Read},
    path::Path,
};

use kiln_fstree::Root;

use crate::{compress::decompress, error::Result, tar::TarReader};

/// How to unpack an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Owner and group of every entry; those of the archive if not said otherwise. Folders without an entry are root's.
    pub owner: Option<(u32, u32)>,
    /// The most bytes that the files may have together; more is an error.
    pub max_size: Option<u64>,
    /// Read the input to its end, past what ends the archive: for those who digest or count what is read. A stream that is
    /// broken there is then an error.
    pub to_end: bool,
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
    unpack_until(input, root, dest, options, || false)
}

/// As [`unpack`], up to the moment at which `stopped` says so: however much comes out of a small archive.
///
/// # Errors
///
/// As [`unpack`]; [`crate::Error::Read`] when it was stopped.
pub fn unpack_until<R: Read + Send + 'static>(
    input: R,
    root: &Root,
    dest: &Path,
    options: &UnpackOptions,
    stopped: impl Fn() -> bool,
) -> Result<()> {
    imp::unpack(Stoppable { input: decompress(input)?, stopped }, root, dest, options)
}

/// Reads until it is stopped.
struct Stoppable<R, F> {
    input: R,
    stopped: F,
}

impl<R: BufRead, F: Fn() -> bool> BufRead for Stoppable<R, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // Not `Interrupted`, at which readers try again.
        if (self.stopped)() { Err(io::Error::other("context canceled")) } else { self.input.fill_buf() }
    }

    fn consume(&mut self, amount: usize) {
        self.input.consume(amount);
    }
}

impl<R: BufRead, F: Fn() -> bool> Read for Stoppable<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(unix)]
mod imp {
    use std::{
        io::BufRead,
        os::{fd::AsFd, unix::ffi::OsStrExt},
        path::Path,
    };

    use kiln_fstree::Root;
    use rustix::fs::OFlags;

    use super::UnpackOptions;
    use crate::{
        apply::tree::{Attributes, Tree, clean, open_in_root},
        error::{Error, Result},
        tar::TarReader,
    };

    pub(super) fn unpack(
        input: impl BufRead,
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
            if let Some((uid, gid)) = options.owner {
                (header.uid, header.gid) = (uid.into(), gid.into());
            }
            let mut attributes = Attributes::of(&header)?;
            // Layers keep capabilities only, but content hashes see what lies in the tree.
            attributes.xattrs.retain(|(name, _)| {
                *name == b"security.capability"
                    || !name.starts_with(b"security.") && !name.starts_with(b"system.")
            });
            tree.create(&header, &attributes, &mut tar)?;
        }
        tree.finish()?;
        if options.to_end {
            tar.drain()?;
        }
        Ok(())
    }
}

#[cfg(not(unix))]
mod imp {
    use std::{io::BufRead, path::Path};

    use kiln_fstree::Root;

    use super::UnpackOptions;
    use crate::error::{Error, Result};

    pub(super) fn unpack(_: impl BufRead, _: &Root, _: &Path, _: &UnpackOptions) -> Result<()> {
        Err(Error::Unsupported("unpacking archives on this system".into()))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        fs,
        io::Cursor,
        os::unix::fs::MetadataExt,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use super::*;
    use crate::{
        apply::tests::{Entry, archive},
        tar::{Header, Kind, TarWriter},
    };

    fn unpack_in(entries: &[Entry<'_>], prepare: impl Fn(&Path)) -> (tempfile::TempDir, Result<()>) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("in")).expect("a folder");
        prepare(folder.path());
        let root = Root::open(folder.path()).expect("root");
        let options = UnpackOptions::default();
        let result = unpack(Cursor::new(archive(entries)), &root, Path::new("/in"), &options);
        (folder, result)
    }

    #[test]
    fn a_file_that_is_being_unpacked_can_be_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::open(folder.path()).expect("root");
        let content = "x".repeat(8 << 20);
        let (looked, options) = (std::cell::Cell::new(0), UnpackOptions::default());
        let stopped = || {
            looked.set(looked.get() + 1);
            looked.get() > 3
        };
        let input = Cursor::new(archive(&[("big", Kind::File, &content)]));
        let error = unpack_until(input, &root, Path::new(""), &options, stopped).expect_err("stopped");
        assert!(error.to_string().contains("context canceled"), "{error}");
        let made = fs::metadata(folder.path().join("big")).map_or(0, |file| file.len());
        assert!(made < content.len() as u64, "{made}");
    }

    #[test]
    fn names_are_clamped_to_the_destination() {
        let entries = [("../up", Kind::File, "1"), ("/abs", Kind::File, "2"), (".wh.plain", Kind::File, "")];
        let (folder, result) = unpack_in(&entries, |_| {});
        result.expect("unpack");
        for name in ["up", "abs", ".wh.plain"] {
            assert!(folder.path().join("in").join(name).is_file(), "{name}");
        }
    }

    #[test]
    fn links_out_of_the_destination_hold_nothing() {
        let hostile: [&[Entry<'_>]; 4] = [
            &[("l", Kind::Symlink, "/etc"), ("l/through", Kind::File, "1")],
            &[("l", Kind::Symlink, "../etc"), ("l/through", Kind::File, "1")],
            &[("h", Kind::HardLink, "/etc/passwd")],
            &[("h", Kind::HardLink, "../etc/passwd")],
        ];
        for entries in hostile {
            let (folder, result) = unpack_in(entries, |root| {
                fs::create_dir(root.join("etc")).expect("a folder");
                fs::write(root.join("etc/passwd"), "root").expect("a file");
            });
            let error = result.expect_err("refused").to_string();
            assert!(
                error.contains("l/through") || error.contains("etc/passwd") || error.contains("unpack l"),
                "{error}"
            );
            assert_eq!(fs::read_dir(folder.path().join("etc")).expect("etc").count(), 1);
        }
    }

    #[test]
    fn owners_and_attributes_of_the_system_are_dropped() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mut header = Header::new(Kind::File, "sub/f");
        (header.uid, header.gid, header.mode) = (u64::MAX >> 2, 55, 0o600);
        header.set_xattr(b"user.a", b"b".to_vec());
        header.set_xattr(b"security.selinux", b"label".to_vec());
        // cap_net_raw, effective: version 2, 20 bytes.
        let mut capability = vec![0; 20];
        (capability[0], capability[3], capability[5]) = (1, 2, 0x20);
        header.set_xattr(b"security.capability", capability.clone());
        let mut tar = TarWriter::new(Vec::new());
        tar.header(&header).expect("header");
        let bytes = tar.finish().expect("finish");
        assert!(is_archive(Cursor::new(bytes.clone())));
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::open(folder.path()).expect("root");
        let options = UnpackOptions { owner: Some((12, 13)), ..UnpackOptions::default() };
        unpack(Cursor::new(bytes), &root, Path::new(""), &options).expect("unpack");
        let file = folder.path().join("sub/f");
        let stat = fs::metadata(&file).expect("stat");
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (12, 13, 0o600));
        let mut value = [0; 32];
        let length = rustix::fs::getxattr(&file, "user.a", &mut value).expect("attribute");
        assert_eq!(value[..length], *b"b");
        assert!(rustix::fs::getxattr(&file, "security.selinux", &mut value).is_err());
        let length = rustix::fs::getxattr(&file, "security.capability", &mut value).expect("capability");
        assert_eq!(value[..length], capability);
        assert_eq!(fs::metadata(folder.path().join("sub")).expect("stat").uid(), 0);
    }

    #[test]
    fn what_follows_the_archive_is_read_on_demand() {
        let mut whole = archive(&[("f", Kind::File, "x")]);
        // More than is read ahead.
        whole.resize(whole.len() + (4 << 20), 0);
        let read = |to_end| {
            let folder = tempfile::tempdir().expect("a folder");
            let root = Root::open(folder.path()).expect("root");
            let input = Counted { input: Cursor::new(whole.clone()), count: Arc::default() };
            let count = Arc::clone(&input.count);
            let options = UnpackOptions { to_end, ..UnpackOptions::default() };
            unpack(input, &root, Path::new(""), &options).expect("unpack");
            count.load(Ordering::SeqCst)
        };
        assert_eq!(read(true), whole.len());
        assert!(read(false) < whole.len(), "what comes after an archive does not matter to ADD");
    }

    struct Counted {
        input: Cursor<Vec<u8>>,
        count: Arc<AtomicUsize>,
    }

    impl Read for Counted {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            let count = self.input.read(target)?;
            self.count.fetch_add(count, Ordering::SeqCst);
            Ok(count)
        }
    }

    #[test]
    fn what_is_an_archive() {
        let tar = archive(&[("f", Kind::File, "x")]);
        assert!(is_archive(Cursor::new(zstd::encode_all(tar.as_slice(), 1).expect("zstd"))));
        assert!(is_archive(Cursor::new(tar)));
        assert!(!is_archive(Cursor::new(archive(&[]))));
        assert!(!is_archive(Cursor::new(zstd::encode_all(&b"text"[..], 1).expect("zstd"))));
        assert!(!is_archive(Cursor::new(b"plain text".repeat(200))));
        assert!(!is_archive(Cursor::new(Vec::new())));
    }
}
