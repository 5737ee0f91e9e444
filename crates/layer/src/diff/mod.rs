//! Writes what a tree changed as a layer.
//!
//! Entries come in the order of a walk that sorts each folder by name bytes. A folder is written when its own metadata
//! changed or something below it did; a deletion is a `.wh.` entry with all-zero metadata, one for each name, also in a
//! folder that replaces one of the same name: opaque markers are never written. Times are cut to seconds. Of extended
//! attributes only `security.capability` goes into a layer. Names that share an inode within the layer become hard links
//! to the first of them; sharing with files outside of the layer does not show.

#[cfg(not(unix))]
mod other;
#[cfg(all(test, unix))]
mod tests;
#[cfg(unix)]
mod unix;

use std::io::{self, BufRead as _, Read, Write};

use kiln_fstree::Root;

use crate::{
    LayerFormat,
    compress::{Compression, LayerWriter, Settings, Written, decompress},
    error::{Error, Result, read_error, stream_error},
    tar::{Header, Kind, TarReader, TarWriter, Timestamp},
};

#[cfg(not(unix))]
use other as imp;
#[cfg(unix)]
use unix as imp;

/// What becomes of modification times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// They stay, cut to whole seconds.
    #[default]
    Keep,
    /// Later ones become this second since 1970 (`SOURCE_DATE_EPOCH`).
    NotAfter(i64),
    /// All are this second since 1970.
    Set(i64),
}

impl Times {
    #[cfg_attr(not(unix), expect(dead_code, reason = "trees are read on unix only so far"))]
    fn of(self, seconds: i64) -> i64 {
        match self {
            Times::Keep => seconds,
            Times::NotAfter(epoch) => epoch.min(seconds),
            Times::Set(epoch) => epoch,
        }
    }
}

/// How to write a layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions {
    /// The layer's format.
    pub format: LayerFormat,
    /// What becomes of modification times.
    pub times: Times,
    /// How the layer is packed.
    pub settings: Settings,
}

/// Writes what `upper`, the upper folder of an overlayfs mount, changes in `lower`, the tree below it (`None`: nothing).
/// A character device 0:0 in `upper` is a deletion, and a folder with `trusted.overlay.opaque` hides the one below. Files
/// with equal metadata are compared by content.
///
/// # Errors
///
/// [`Error::Tree`] for files that cannot be read, [`Error::Write`] for what the sink says.
pub fn upper<W: Write>(
    upper: &Root,
    lower: Option<&Root>,
    sink: W,
    options: &DiffOptions,
) -> Result<(W, Written)> {
    imp::write(upper, lower, imp::Walk::Upper, sink, options)
}

/// Writes what differs from `lower` (`None`: an empty tree) in the complete tree `upper`. Files with equal metadata and
/// times in whole seconds are compared by content.
///
/// # Errors
///
/// As [`upper()`].
pub fn trees<W: Write>(
    lower: Option<&Root>,
    upper: &Root,
    sink: W,
    options: &DiffOptions,
) -> Result<(W, Written)> {
    imp::write(upper, lower, imp::Walk::Complete, sink, options)
}

/// A tar archive of whole trees, as users take it home: with all extended attributes.
pub struct Archive<W> {
    inner: imp::Archive<W>,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(sink: W) -> Self {
        Archive { inner: imp::Archive::new(LayerWriter::new(sink, Compression::Uncompressed.into())) }
    }

    /// Adds a folder of the root user with mode 0755.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn folder(&mut self, path: &str, seconds: i64) -> Result<()> {
        let mut header = Header::new(Kind::Directory, format!("{path}/"));
        (header.mode, header.mtime) = (0o755, Timestamp::from_seconds(seconds));
        self.inner.tar().header(&header).map_err(Error::Write)
    }

    /// Adds a file of the root user.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn file(&mut self, path: &str, mode: u32, seconds: i64, content: &[u8]) -> Result<()> {
        let mut header = Header::new(Kind::File, path);
        (header.mode, header.size, header.mtime) =
            (mode, content.len() as u64, Timestamp::from_seconds(seconds));
        let tar = self.inner.tar();
        tar.header(&header).and_then(|()| tar.write_all(content)).map_err(Error::Write)
    }

    /// Adds everything below `root`, under the folder `prefix` if it is not empty.
    ///
    /// # Errors
    ///
    /// As [`upper()`].
    pub fn tree(&mut self, prefix: &str, root: &Root, times: Times) -> Result<()> {
        self.inner.tree(prefix, root, times)
    }

    /// Ends the archive and gives the sink back.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn finish(self) -> Result<W> {
        let layer = self.inner.into_tar().finish().map_err(Error::Write)?;
        Ok(layer.finish().map_err(Error::Write)?.0)
    }
}

/// Packs the tar stream inside `blob`, in whatever compression, anew as `settings` say.
///
/// # Errors
///
/// [`Error::Read`] and [`Error::Write`].
pub fn repack<R: Read + Send + 'static, W: Write>(
    blob: R,
    sink: W,
    settings: Settings,
) -> Result<(W, Written)> {
    let mut stream = decompress(blob)?;
    let mut layer = LayerWriter::new(sink, settings);
    loop {
        let piece = stream.fill_buf().map_err(Error::Read)?;
        if piece.is_empty() {
            return layer.finish().map_err(Error::Write);
        }
        let length = piece.len();
        layer.write_all(piece).map_err(Error::Write)?;
        stream.consume(length);
    }
}

/// Writes the layer inside `blob` anew with no time later than `epoch` seconds since 1970.
///
/// # Errors
///
/// As [`repack`], and for archives that cannot be read.
pub fn clamp_times<R, W>(blob: R, sink: W, settings: Settings, epoch: i64) -> Result<(W, Written)>
where
    R: Read + Send + 'static,
    W: Write,
{
    let mut from = TarReader::new(decompress(blob)?);
    let mut to = TarWriter::new(LayerWriter::new(sink, settings));
    let latest = Timestamp::from_seconds(epoch);
    while let Some(mut header) = from.next_entry()? {
        header.mtime = header.mtime.min(latest);
        header.atime = None;
        to.header(&header).map_err(Error::Write)?;
        let mut left = header.size;
        while left > 0 {
            let count = to.inner().fill_from(&mut Source(&mut from), left).map_err(stream_error)?;
            to.advance(count as u64);
            left -= count as u64;
        }
    }
    to.finish().and_then(LayerWriter::finish).map_err(Error::Write)
}

/// Tells errors of reading from those of the sink.
struct Source<'a, R>(&'a mut R);

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.0.read(target).map_err(|error| io::Error::other(read_error(error)))
    }
}
