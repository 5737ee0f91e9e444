//! The walk over one or two trees, and what it writes.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use kiln_fstree::Root;
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{DiffOptions, Times};
use crate::{
    LayerFormat,
    apply::tree::{is_whiteout, join, names, open_in_root, split},
    compress::{LayerWriter, Written},
    error::{Error, Result},
    tar::{Header, Kind, TarWriter, Timestamp},
    windows,
};

const CAPABILITY: &str = "security.capability";

/// Which names of the lower tree count as deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Those that the upper tree marks.
    Upper,
    /// Those that the upper tree has not.
    Complete,
}

pub(super) fn write<W: Write>(
    upper: &Root,
    lower: Option<&Root>,
    walk: Walk,
    sink: W,
    options: &DiffOptions,
) -> Result<(W, Written)> {
    let open = |root: &Root| open_in_root(root.as_fd(), b"", OFlags::DIRECTORY | OFlags::RDONLY);
    let fail = |error: Errno| Error::tree(b"/", "open the tree", error);
    let upper_fd = open(upper).map_err(fail)?;
    let lower_fd = lower.map(open).transpose().map_err(fail)?;
    let out = LayerWriter::new(sink, options.settings);
    let mut layer = Layer::start(out, options)?;
    let mut diff = Diff { root: upper.as_fd(), layer: &mut layer, links: Links::default() };
    diff.folder(&mut Vec::new(), &upper_fd, lower_fd.as_ref(), walk)?;
    layer.tar.finish().and_then(LayerWriter::finish).map_err(Error::Write)
}

/// An archive of trees under way.
pub(super) struct Archive<W> {
    layer: Layer<W>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: LayerWriter<W>) -> Self {
        let tar = TarWriter::new(out);
        let layer = Layer {
            tar,
            format: LayerFormat::Unix,
            times: Times::Keep,
            prefix: Vec::new(),
            all_xattrs: true,
            folders: HashSet::new(),
        };
        Archive { layer }
    }

    pub(super) fn tar(&mut self) -> &mut TarWriter<LayerWriter<W>> {
        &mut self.layer.tar
    }

    pub(super) fn into_tar(self) -> TarWriter<LayerWriter<W>> {
        self.layer.tar
    }

    pub(super) fn tree(&mut self, prefix: &str, root: &Root, times: Times) -> Result<()> {
        let fd = open_in_root(root.as_fd(), b"", OFlags::DIRECTORY | OFlags::RDONLY)
            .map_err(|error| Error::tree(b"/", "open the tree", error))?;
        self.layer.times = times;
        self.layer.prefix = if prefix.is_empty() { Vec::new() } else { format!("{prefix}/").into_bytes() };
        self.layer.folders.clear();
        let mut diff = Diff { root: root.as_fd(), layer: &mut self.layer, links: Links::default() };
        diff.folder(&mut Vec::new(), &fd, None, Walk::Complete)
    }
}

/// Device and inode number.
type Inode = (u64, u64);

/// Names of inodes that have several.
#[derive(Default)]
struct Links {
    /// The first name that was written.
    written: HashMap<Inode, Vec<u8>>,
    /// Names of unchanged files, which are written as links once another name of theirs is.
    unchanged: HashMap<Inode, Vec<(Vec<u8>, Stat)>>,
}

struct Diff<'a, W> {
    root: BorrowedFd<'a>,
    layer: &'a mut Layer<W>,
    links: Links,
}

/// A name found in both trees, and what it was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Written,
    Unchanged,
}

impl<W: Write> Diff<'_, W> {
    /// Compares one folder, whose path is `path`.
    fn folder(
        &mut self,
        path: &mut Vec<u8>,
        upper: &OwnedFd,
        lower: Option<&OwnedFd>,
        walk: Walk,
    ) -> Result<()> {
        for name in sorted_names(path, upper, lower, walk)? {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            self.name(path, &name, upper, lower, walk)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn name(
        &mut self,
        path: &mut Vec<u8>,
        name: &OsStr,
        upper: &OwnedFd,
        lower: Option<&OwnedFd>,
        walk: Walk,
    ) -> Result<()> {
        let above = stat(path, upper, name)?;
        let below = lower.map_or(Ok(None), |lower| stat(path, lower, name))?;
        let above = match above {
            Some(stat) if !is_whiteout(&stat) => stat,
            // Deleted, by a mark or by not being there. A mark over nothing says nothing.
            _ => return if below.is_some() { self.delete(path) } else { Ok(()) },
        };
        let same = match (below, lower) {
            (Some(below), Some(lower)) => same(path, name, (upper, &above), (lower, &below), walk)?,
            _ => false,
        };
        let change = if same { Change::Unchanged } else { Change::Written };
        if change == Change::Written || walk == Walk::Complete && is_linked(&above) {
            self.change(path, name, upper, &above, change)?;
        }
        if FileType::from_raw_mode(above.st_mode) != FileType::Directory {
            return Ok(());
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |parent| {
            fs::openat(parent, name, flags, Mode::empty()).map_err(|e| Error::tree(path, "open folder", e))
        };
        let upper = open(upper)?;
        let below_is_folder =
            below.is_some_and(|b| FileType::from_raw_mode(b.st_mode) == FileType::Directory);
        let lower = lower.filter(|_| below_is_folder).map(open).transpose()?;
        let walk = match walk {
            Walk::Upper if lower.is_some() && overlay_mark(path, &upper)? => Walk::Complete,
            walk => walk,
        };
        self.folder(path, &upper, lower.as_ref(), walk)
    }

    fn delete(&mut self, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        let whiteout = join(parent, &[b".wh.", name].concat());
        self.include_parents(&whiteout)?;
        self.layer.write(Header::new(Kind::File, whiteout))
    }

    /// Writes a name that is new or changed, or notes one that may have to become a link.
    fn change(
        &mut self,
        path: &[u8],
        name: &OsStr,
        parent: &OwnedFd,
        stat: &Stat,
        change: Change,
    ) -> Result<()> {
        let Some(mut header) = self.layer.header(path, stat) else { return Ok(()) };
        let inode = (stat.st_dev, stat.st_ino);
        let mut waiting = Vec::new();
        if is_linked(stat) {
            if let Some(first) = self.links.written.get(&inode) {
                return self.link(header, first.clone());
            }
            if change == Change::Unchanged {
                self.links.unchanged.entry(inode).or_default().push((path.to_vec(), *stat));
                return Ok(());
            }
            self.links.written.insert(inode, path.to_vec());
            waiting = self.links.unchanged.remove(&inode).unwrap_or_default();
        }
        self.include_parents(path)?;
        match header.kind {
            Kind::File => self.file(path, name, parent, header)?,
            Kind::Symlink => {
                let target = fs::readlinkat(parent, name, Vec::new());
                header.link = target.map_err(|e| Error::tree(path, "read link", e))?.into_bytes();
                self.layer.write(header)?;
            }
            kind => {
                if kind == Kind::Directory {
                    self.layer.folders.insert(path.to_vec());
                    if self.layer.all_xattrs {
                        let folder = open_file(path, name, parent)?;
                        self.layer.add_xattrs(&mut header, path, &folder)?;
                    }
                }
                self.layer.write(header)?;
            }
        }
        for (further, stat) in waiting {
            if let Some(header) = self.layer.header(&further, &stat) {
                self.link(header, path.to_vec())?;
            }
        }
        Ok(())
    }

    fn link(&mut self, mut header: Header, target: Vec<u8>) -> Result<()> {
        self.include_parents(&header.path)?;
        (header.kind, header.link, header.size) = (Kind::HardLink, target, 0);
        self.layer.write(header)
    }

    fn file(&mut self, path: &[u8], name: &OsStr, parent: &OwnedFd, mut header: Header) -> Result<()> {
        let mut file = open_file(path, name, parent)?;
        self.layer.add_xattrs(&mut header, path, &file)?;
        self.layer.write_file(header, &mut file)
    }

    /// Writes the folders on the way to `path` that the layer has no entry for.
    fn include_parents(&mut self, path: &[u8]) -> Result<()> {
        let (parent, _) = split(path);
        if parent.is_empty() || self.layer.folders.contains(parent) {
            return Ok(());
        }
        self.include_parents(parent)?;
        let fail = |error: Errno| Error::tree(parent, "stat folder", error);
        let fd = open_in_root(self.root, parent, OFlags::DIRECTORY | OFlags::PATH).map_err(fail)?;
        let stat = fs::fstat(&fd).map_err(fail)?;
        self.layer.folders.insert(parent.to_vec());
        match self.layer.header(parent, &stat) {
            Some(header) => self.layer.write(header),
            None => Ok(()),
        }
    }
}

/// The archive under way.
struct Layer<W> {
    tar: TarWriter<LayerWriter<W>>,
    format: LayerFormat,
    times: Times,
    /// What stands before each name, with its slash.
    prefix: Vec<u8>,
    /// Whether all extended attributes are written, or capabilities only.
    all_xattrs: bool,
    /// Folders that have an entry.
    folders: HashSet<Vec<u8>>,
}

impl<W: Write> Layer<W> {
    fn start(out: LayerWriter<W>, options: &DiffOptions) -> Result<Self> {
        let mut tar = TarWriter::new(out);
        if options.format == LayerFormat::Windows {
            for header in windows::leading() {
                tar.header(&header).map_err(Error::Write)?;
            }
        }
        let (format, times) = (options.format, options.times);
        Ok(Layer { tar, format, times, prefix: Vec::new(), all_xattrs: false, folders: HashSet::new() })
    }

    /// The entry of a file, or `None` for a socket, which no archive holds.
    fn header(&self, path: &[u8], stat: &Stat) -> Option<Header> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            _ => return None,
        };
        let mut header = Header::new(kind, path);
        if kind == Kind::Directory {
            header.path.push(b'/');
        }
        header.mode = stat.st_mode & 0o7777;
        (header.uid, header.gid) = (stat.st_uid.into(), stat.st_gid.into());
        if kind == Kind::File {
            header.size = u64::try_from(stat.st_size).unwrap_or(0);
        }
        header.mtime = Timestamp::from_seconds(self.times.of(stat.st_mtime));
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            header.device = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
        }
        Some(header)
    }

    fn write(&mut self, mut header: Header) -> Result<()> {
        if self.format == LayerFormat::Windows {
            windows::wrap(&mut header);
        }
        if !self.prefix.is_empty() {
            header.path.splice(..0, self.prefix.iter().copied());
            if header.kind == Kind::HardLink {
                header.link.splice(..0, self.prefix.iter().copied());
            }
        }
        self.tar.header(&header).map_err(Error::Write)
    }

    fn add_xattrs(&self, header: &mut Header, path: &[u8], file: &File) -> Result<()> {
        if self.all_xattrs {
            for (name, value) in xattrs(file).map_err(|e| Error::tree(path, "read extended attributes", e))? {
                header.set_xattr(name.as_bytes(), value);
            }
        } else if let Some(capability) = capability(path, file)? {
            header.set_xattr(CAPABILITY.as_bytes(), capability);
        }
        Ok(())
    }

    fn write_file(&mut self, header: Header, file: &mut File) -> Result<()> {
        let path = header.path.clone();
        let mut left = header.size;
        self.write(header)?;
        while left > 0 {
            let mut source = Source { path: &path, file };
            let count = self.tar.inner().fill_from(&mut source, left).map_err(crate::error::stream_error)?;
            if count == 0 {
                let error =
                    io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read");
                return Err(Error::tree(&path, "read file", error));
            }
            self.tar.advance(count as u64);
            left -= count as u64;
        }
        Ok(())
    }
}

/// A file whose read errors name it.
struct Source<'a> {
    path: &'a [u8],
    file: &'a mut File,
}

impl Read for Source<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(target) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    return result
                        .map_err(|error| io::Error::other(Error::tree(self.path, "read file", error)));
                }
            }
        }
    }
}

fn sorted_names(path: &[u8], upper: &OwnedFd, lower: Option<&OwnedFd>, walk: Walk) -> Result<Vec<OsString>> {
    let list = |folder| names(folder).map_err(|error| Error::tree(path, "list folder", error));
    let mut found = list(upper)?;
    match lower {
        Some(lower) if walk == Walk::Complete => {
            found.extend(list(lower)?);
            Ok(found.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
        }
        _ => {
            found.sort_unstable();
            Ok(found)
        }
    }
}

fn stat(path: &[u8], parent: &OwnedFd, name: &OsStr) -> Result<Option<Stat>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::tree(path, "stat", error)),
    }
}

fn is_linked(stat: &Stat) -> bool {
    stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
}

/// Whether overlayfs shows nothing of the folder below this one.
fn overlay_mark(path: &[u8], folder: &OwnedFd) -> Result<bool> {
    let mut value = [0; 8];
    match fs::fgetxattr(folder, "trusted.overlay.redirect", &mut value) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
        Ok(0) => {}
        Ok(_) | Err(Errno::RANGE) => {
            let error =
                io::Error::other("the folder was moved by overlayfs (redirect_dir), which is not supported");
            return Err(Error::tree(path, "read overlay marks", error));
        }
        Err(error) => return Err(Error::tree(path, "read overlay marks", error)),
    }
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        match fs::fgetxattr(folder, name, &mut value) {
            Ok(1) if value[0] == b'y' => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => {}
            Err(error) => return Err(Error::tree(path, "read overlay marks", error)),
        }
    }
    Ok(false)
}

/// Whether nothing that a layer shows differs. Folders: mode and owner. Files also: size, time, and the content, unless whole
/// trees are compared and the times are more exact than seconds: the kernel's clock gives files that steps write side
/// by side the same nanosecond.
fn same(
    path: &[u8],
    name: &OsStr,
    upper: (&OwnedFd, &Stat),
    lower: (&OwnedFd, &Stat),
    walk: Walk,
) -> Result<bool> {
    let ((upper_fd, a), (lower_fd, b)) = (upper, lower);
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        return Ok(true);
    }
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) != (b.st_mode, b.st_uid, b.st_gid, b.st_rdev) {
        return Ok(false);
    }
    let kind = FileType::from_raw_mode(a.st_mode);
    if kind == FileType::Directory {
        return Ok(true);
    }
    if (a.st_size, a.st_mtime, a.st_mtime_nsec) != (b.st_size, b.st_mtime, b.st_mtime_nsec) {
        return Ok(false);
    }
    let time_tells = walk == Walk::Complete && a.st_mtime_nsec != 0;
    match kind {
        FileType::RegularFile => {
            let mut a = open_file(path, name, upper_fd)?;
            let mut b = open_file(path, name, lower_fd)?;
            Ok(capability(path, &a)? == capability(path, &b)?
                && (time_tells || same_content(path, &mut a, &mut b)?))
        }
        FileType::Symlink => {
            let read =
                |fd| fs::readlinkat(fd, name, Vec::new()).map_err(|e| Error::tree(path, "read link", e));
            Ok(read(upper_fd)? == read(lower_fd)?)
        }
        _ => Ok(true),
    }
}

fn same_content(path: &[u8], a: &mut File, b: &mut File) -> Result<bool> {
    let mut buffers = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = |file: &mut File, buffer: &mut Vec<u8>| {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Error::tree(path, "read file", error)),
                }
            }
            Ok(filled)
        };
        let (from_a, from_b) = (read(a, &mut buffers.0)?, read(b, &mut buffers.1)?);
        if buffers.0[..from_a] != buffers.1[..from_b] {
            return Ok(false);
        }
        if from_a < buffers.0.len() {
            return Ok(true);
        }
    }
}

fn open_file(path: &[u8], name: &OsStr, parent: &OwnedFd) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    fs::openat(parent, name, flags, Mode::empty())
        .map(File::from)
        .map_err(|e| Error::tree(path, "open file", e))
}

/// All extended attributes of a file but those of overlayfs.
fn xattrs(file: &File) -> rustix::io::Result<Vec<(OsString, Vec<u8>)>> {
    // The kernel's limits for the list and for one value.
    const MAX: usize = 64 << 10;
    let mut list = [0; 1024];
    let length = match fs::flistxattr(file, &mut list) {
        Err(Errno::OPNOTSUPP) | Ok(0) => return Ok(Vec::new()),
        Err(Errno::RANGE) => None,
        result => Some(result?),
    };
    let list = match length {
        Some(length) => list[..length].to_vec(),
        None => {
            let mut list = vec![0; MAX];
            let length = fs::flistxattr(file, list.as_mut_slice())?;
            list.truncate(length);
            list
        }
    };
    let mut found = Vec::new();
    for name in list.split(|&b| b == 0).filter(|n| !n.is_empty() && !n.starts_with(b"trusted.overlay.")) {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; MAX];
        match fs::fgetxattr(file, name, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_owned(), value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn capability(path: &[u8], file: &File) -> Result<Option<Vec<u8>>> {
    // The kernel's largest form has 24 bytes.
    let mut value = [0; 64];
    match fs::fgetxattr(file, CAPABILITY, &mut value) {
        Ok(length) => Ok((length > 0).then(|| value[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(Error::tree(path, "read file capabilities", error)),
    }
}
