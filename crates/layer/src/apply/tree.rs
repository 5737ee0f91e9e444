//! Makes files below a root folder, for [`super::apply`] and [`crate::add`]: few system calls each, none by a name that a
//! link could bend.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    io::{self, BufRead, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    rc::Rc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use crate::{
    error::{Error, Result, read_error},
    tar::{Header, Kind, Timestamp},
};

/// Open folders that are remembered; archives come folder by folder.
const CACHED_FOLDERS: usize = 32;
/// Links that a name may lead through before it is called a cycle, as in the kernel.
const MAX_LINKS: usize = 40;

const OPAQUE: &str = "trusted.overlay.opaque";

/// What a file gets beside its content.
pub(crate) struct Attributes<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Attributes<'a> {
    /// As the archive says, without extended attributes that only the system may set.
    ///
    /// # Errors
    ///
    /// An owner beyond 32 bits.
    pub(crate) fn of(header: &'a Header) -> Result<Self> {
        let id = |id: u64, what| {
            u32::try_from(id)
                .map_err(|_| Error::unpack(&header.path, format!("set {what} {id}"), Errno::INVAL))
        };
        let mtime = bound(header.mtime);
        Ok(Attributes {
            uid: id(header.uid, "owner")?,
            gid: id(header.gid, "group")?,
            mode: header.mode & 0o7777,
            atime: header.atime.map_or(mtime, bound).max(mtime),
            mtime,
            xattrs: header.xattrs().filter(|(name, _)| !name.starts_with(b"trusted.")).collect(),
        })
    }
}

/// Times that the system cannot hold become 1970: before that, or beyond 64 bits of nanoseconds.
fn bound(time: Timestamp) -> Timestamp {
    let latest = Timestamp::from_seconds(i64::MAX / 1_000_000_000);
    if time.seconds < 0 || time > latest { Timestamp::default() } else { time }
}

fn timestamps(atime: Timestamp, mtime: Timestamp) -> Timestamps {
    let spec = |t: Timestamp| Timespec { tv_sec: t.seconds, tv_nsec: t.nanoseconds.into() };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

/// An open folder of the tree.
pub(crate) struct Folder {
    fd: OwnedFd,
    /// New files inherit this folder's group.
    setgid: bool,
}

/// A tree in the making.
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// Whether folders are made where a dangling link points to.
    through_dangling: bool,
    folders: HashMap<Vec<u8>, Rc<Folder>>,
    /// Times of folders, set last: making files changes them.
    times: Vec<(Vec<u8>, Timestamp, Timestamp)>,
    /// Folders made without an entry of their own.
    implied: BTreeSet<Vec<u8>>,
    whoami: (u32, u32),
    written: Cell<u64>,
    max_size: u64,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, through_dangling: bool, max_size: Option<u64>) -> Self {
        Tree {
            root,
            through_dangling,
            folders: HashMap::new(),
            times: Vec::new(),
            implied: BTreeSet::new(),
            whoami: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            written: Cell::new(0),
            max_size: max_size.unwrap_or(u64::MAX),
        }
    }

    /// Bytes of content written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.get()
    }

    /// Sets the times of folders and returns those that no entry described, parents first.
    pub(crate) fn finish(mut self) -> Result<BTreeSet<Vec<u8>>> {
        self.folders.clear();
        for (path, atime, mtime) in std::mem::take(&mut self.times) {
            // The folder may have been replaced since by something else.
            let fd = match open_in_root(self.root, &path, OFlags::DIRECTORY | OFlags::RDONLY) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(error) => return Err(Error::unpack(&path, "open folder", error)),
            };
            fs::futimens(&fd, &timestamps(atime, mtime)).map_err(|e| Error::unpack(&path, "set times", e))?;
        }
        Ok(self.implied)
    }

    /// The folder that holds `path`, made if it is missing, and the name in it.
    pub(crate) fn place<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<Folder>, &'p OsStr)> {
        let (parent, name) = split(path);
        let folder = self.folder(parent).map_err(|error| error.of_entry(path))?;
        Ok((folder, OsStr::from_bytes(name)))
    }

    /// Opens a folder of the tree, made if it is missing.
    pub(crate) fn folder(&mut self, path: &[u8]) -> Result<Rc<Folder>> {
        if let Some(folder) = self.folders.get(path) {
            return Ok(Rc::clone(folder));
        }
        let fd = match open_in_root(self.root, path, OFlags::DIRECTORY | OFlags::RDONLY) {
            Err(Errno::NOENT) => {
                self.make_folders(path)?;
                open_in_root(self.root, path, OFlags::DIRECTORY | OFlags::RDONLY)
            }
            result => result,
        };
        let fd = fd.map_err(|error| Error::unpack(path, "open folder", error))?;
        self.remember(path, fd)
    }

    fn remember(&mut self, path: &[u8], fd: OwnedFd) -> Result<Rc<Folder>> {
        let stat = fs::fstat(&fd).map_err(|error| Error::unpack(path, "stat folder", error))?;
        let folder = Rc::new(Folder { fd, setgid: stat.st_mode & 0o2000 != 0 });
        if self.folders.len() >= CACHED_FOLDERS {
            self.folders.clear();
        }
        self.folders.insert(path.to_vec(), Rc::clone(&folder));
        Ok(folder)
    }

    /// Makes the missing folders on the way to `path`.
    fn make_folders(&mut self, path: &[u8]) -> Result<()> {
        let mut wanted = path.to_vec();
        for _ in 0..MAX_LINKS {
            match self.make_folders_until_link(&wanted)? {
                None => return Ok(()),
                Some(rest) => wanted = rest,
            }
        }
        Err(Error::unpack(path, "make folder", Errno::LOOP))
    }

    /// As [`Tree::make_folders`]; a dangling link on the way ends it, and where that leads is returned.
    fn make_folders_until_link(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let fail = |error: Errno| Error::unpack(path, "make folder", error);
        let mut parent =
            fs::openat(self.root, ".", OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(fail)?;
        let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let (above, name) = split(&path[..end]);
            let name = OsStr::from_bytes(name);
            let open = || open_in_root(self.root, &path[..end], OFlags::DIRECTORY | OFlags::PATH);
            parent = match open() {
                Ok(fd) => fd,
                Err(Errno::NOENT) => match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {
                        let made = Mode::from_raw_mode(0o755);
                        fs::chmodat(&parent, name, made, AtFlags::empty()).map_err(fail)?;
                        self.implied.insert(path[..end].to_vec());
                        open().map_err(fail)?
                    }
                    Err(Errno::EXIST) if self.through_dangling => {
                        let target = fs::readlinkat(&parent, name, Vec::new()).map_err(fail)?;
                        let mut next =
                            if target.as_bytes().starts_with(b"/") { Vec::new() } else { above.to_vec() };
                        for part in [target.as_bytes(), &path[end..]] {
                            next.push(b'/');
                            next.extend_from_slice(part);
                        }
                        return Ok(Some(clean(&next)));
                    }
                    Err(Errno::EXIST) => return Err(fail(Errno::NOENT)),
                    Err(error) => return Err(fail(error)),
                },
                Err(error) => return Err(fail(error)),
            };
        }
        Ok(None)
    }

    /// Makes one file of any kind, in place of what is there.
    pub(crate) fn create(
        &mut self,
        header: &Header,
        attributes: &Attributes<'_>,
        content: &mut impl BufRead,
    ) -> Result<()> {
        let path = &header.path;
        let (folder, name) = self.place(path)?;
        match header.kind {
            Kind::Directory => return self.create_folder(path, &folder, name, attributes),
            Kind::File => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let open = || fs::openat(&folder.fd, name, flags, Mode::from_raw_mode(0o600));
                let file = self.replacing(path, "create file", &folder, name, open)?;
                let mut file = std::fs::File::from(file);
                self.write_content(path, &mut file, content)?;
                return self.dress(path, &folder, &file, attributes);
            }
            Kind::Symlink => {
                let link = OsStr::from_bytes(&header.link);
                self.replacing(path, "make link", &folder, name, || fs::symlinkat(link, &folder.fd, name))?;
            }
            Kind::HardLink => self.hard_link(path, &header.link, &folder, name)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match header.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = fs::makedev(header.device.0, header.device.1);
                let mode = Mode::from_raw_mode(0o600);
                let make = || fs::mknodat(&folder.fd, name, kind, mode, device);
                self.replacing(path, "make device", &folder, name, make)?;
            }
        }
        self.dress_by_name(path, &folder, name, attributes)
    }

    /// Runs `make`; if something is there already, removes that and runs it again.
    fn replacing<T>(
        &mut self,
        path: &[u8],
        action: &str,
        folder: &Folder,
        name: &OsStr,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        let result = match make() {
            Err(Errno::EXIST) => {
                self.remove(path, folder, name)?;
                make()
            }
            result => result,
        };
        result.map_err(|error| Error::unpack(path, action, error))
    }

    /// Removes a name with everything below it; a name that is not there is fine.
    pub(crate) fn remove(&mut self, path: &[u8], folder: &Folder, name: &OsStr) -> Result<()> {
        // What was remembered may be gone, or reached through a link that is.
        self.folders.clear();
        remove_all(folder.fd.as_fd(), name)
            .map_err(|error| Error::unpack(path, "remove what was there", error))
    }

    /// As [`Tree::remove`], by path; its folder is not made.
    pub(crate) fn remove_path(&mut self, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        match open_in_root(self.root, parent, OFlags::DIRECTORY | OFlags::RDONLY) {
            Ok(fd) => self.remove(path, &Folder { fd, setgid: false }, OsStr::from_bytes(name)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(Error::unpack(parent, "open folder", error)),
        }
    }

    fn create_folder(
        &mut self,
        path: &[u8],
        parent: &Folder,
        name: &OsStr,
        attributes: &Attributes<'_>,
    ) -> Result<()> {
        let fail = |action: &'static str| move |error: Errno| Error::unpack(path, action, error);
        let mut opaque = false;
        if fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700))
            .map_or_else(|error| if error == Errno::EXIST { Ok(true) } else { Err(error) }, |()| Ok(false))
            .map_err(fail("make folder"))?
        {
            let there = fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail("stat"))?;
            if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                // A deletion and a new folder of one name in one layer: nothing of the layers below shows through.
                opaque = is_whiteout(&there);
                self.remove(path, parent, name)?;
                fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700)).map_err(fail("make folder"))?;
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&parent.fd, name, flags, Mode::empty()).map_err(fail("open folder"))?;
        if opaque {
            set_opaque(&fd).map_err(fail("make folder opaque"))?;
        }
        own(&fd, attributes).map_err(fail("set owner"))?;
        self.set_xattrs(path, attributes, |name, value| {
            fs::fsetxattr(&fd, name, value, XattrFlags::empty())
        })?;
        fs::fchmod(&fd, Mode::from_raw_mode(attributes.mode)).map_err(fail("set mode"))?;
        self.times.push((path.to_vec(), attributes.atime, attributes.mtime));
        self.implied.remove(path);
        self.remember(path, fd)?;
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8], folder: &Folder, name: &OsStr) -> Result<()> {
        let action = format!("make a hard link to {}", crate::tar::display_path(target));
        let clean_target = clean(target);
        let (parent, target_name) = split(&clean_target);
        let from = open_in_root(self.root, parent, OFlags::DIRECTORY | OFlags::PATH)
            .map_err(|error| Error::unpack(path, action.as_str(), error))?;
        // A link to itself would first remove the only name.
        if clean_target == path {
            return Err(Error::unpack(path, action, Errno::INVAL));
        }
        let target_name = OsStr::from_bytes(target_name);
        let link = || fs::linkat(&from, target_name, &folder.fd, name, AtFlags::empty());
        self.replacing(path, &action, folder, name, link)
    }

    fn write_content(&self, path: &[u8], file: &mut std::fs::File, content: &mut impl BufRead) -> Result<()> {
        loop {
            let piece = match content.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(error)),
            };
            let length = piece.len();
            if length == 0 {
                return Ok(());
            }
            let total = self.written.get().saturating_add(length as u64);
            if total > self.max_size {
                let what = format!("the content of the archive at {}", crate::tar::display_path(path));
                return Err(Error::Limit { what, limit: self.max_size });
            }
            self.written.set(total);
            file.write_all(piece).map_err(|error| Error::unpack(path, "write file", error))?;
            content.consume(length);
        }
    }

    /// Owner, attributes, mode and times of an open file, in an order in which none undoes another.
    fn dress(
        &self,
        path: &[u8],
        folder: &Folder,
        file: &impl AsFd,
        attributes: &Attributes<'_>,
    ) -> Result<()> {
        let fail = |action: &'static str| move |error: Errno| Error::unpack(path, action, error);
        if folder.setgid || (attributes.uid, attributes.gid) != self.whoami {
            own(file, attributes).map_err(fail("set owner"))?;
        }
        self.set_xattrs(path, attributes, |name, value| {
            fs::fsetxattr(file, name, value, XattrFlags::empty())
        })?;
        fs::fchmod(file, Mode::from_raw_mode(attributes.mode)).map_err(fail("set mode"))?;
        fs::futimens(file, &timestamps(attributes.atime, attributes.mtime)).map_err(fail("set times"))
    }

    /// The same for what is better not opened: links, devices, pipes, further names of files. Only what differs is set:
    /// a change of owner would strip the capabilities of a file that has a further name.
    fn dress_by_name(
        &self,
        path: &[u8],
        folder: &Folder,
        name: &OsStr,
        attributes: &Attributes<'_>,
    ) -> Result<()> {
        let fail = |action: &'static str| move |error: Errno| Error::unpack(path, action, error);
        let stat = fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail("stat"))?;
        if (stat.st_uid, stat.st_gid) != (attributes.uid, attributes.gid) {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            fs::chownat(&folder.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(fail("set owner"))?;
        }
        let by_handle = format!("/proc/self/fd/{}/", folder.fd.as_raw_fd());
        let full = [by_handle.as_bytes(), name.as_bytes()].concat();
        self.set_xattrs(path, attributes, |xattr, value| {
            fs::lsetxattr(OsStr::from_bytes(&full), xattr, value, XattrFlags::empty())
        })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink
            && stat.st_mode & 0o7777 != attributes.mode
        {
            let mode = Mode::from_raw_mode(attributes.mode);
            fs::chmodat(&folder.fd, name, mode, AtFlags::empty()).map_err(fail("set mode"))?;
        }
        let times = timestamps(attributes.atime, attributes.mtime);
        fs::utimensat(&folder.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(fail("set times"))
    }

    /// Attributes that the filesystem has no place for are dropped, as every tool does.
    fn set_xattrs(
        &self,
        path: &[u8],
        attributes: &Attributes<'_>,
        set: impl Fn(&OsStr, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<()> {
        for (name, value) in &attributes.xattrs {
            match set(OsStr::from_bytes(name), value) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                // Links and devices cannot have attributes of this class.
                Err(Errno::PERM) if name.starts_with(b"user.") => {}
                Err(error) => {
                    let action = format!("set extended attribute {}", String::from_utf8_lossy(name));
                    return Err(Error::unpack(path, action, error));
                }
            }
        }
        Ok(())
    }

    /// Marks `name` as deleted, for overlayfs. What the same layer has made of that name stays.
    pub(crate) fn whiteout(&mut self, folder: &Folder, path: &[u8], name: &OsStr) -> Result<()> {
        match fs::mknodat(&folder.fd, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(Error::unpack(path, "mark as deleted", error)),
        }
    }

    /// Marks a folder as opaque, for overlayfs.
    pub(crate) fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let folder = self.folder(path)?;
        set_opaque(&folder.fd).map_err(|error| Error::unpack(path, "make folder opaque", error))
    }

    /// Removes everything below the folder `path` but what `keep` says.
    pub(crate) fn empty(&mut self, path: &[u8], keep: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        let fail = |error: Errno| Error::unpack(path, "empty folder", error);
        let fd = match open_in_root(self.root, path, OFlags::DIRECTORY | OFlags::RDONLY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(fail(error)),
        };
        for name in names(&fd).map_err(fail)? {
            let child = join(path, name.as_bytes());
            if !keep(&child) {
                self.folders.clear();
                remove_all(fd.as_fd(), &name).map_err(fail)?;
            } else if is_folder(&fd, &name).map_err(fail)? {
                self.empty(&child, keep)?;
            }
        }
        Ok(())
    }
}

fn own(file: &impl AsFd, attributes: &Attributes<'_>) -> rustix::io::Result<()> {
    fs::fchown(file, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}

fn set_opaque(fd: &OwnedFd) -> rustix::io::Result<()> {
    fs::fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether this is what overlayfs takes for a deletion.
pub(crate) fn is_whiteout(stat: &fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_folder(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<bool> {
    let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Opens `path` as if `root` were `/`. The empty path is the root.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match fs::openat2(root, OsStr::from_bytes(path), flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel says so when something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The names in a folder, in no order.
pub(crate) fn names(folder: &OwnedFd) -> rustix::io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Removes a name with everything below it, following no link.
fn remove_all(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = fs::openat(parent, name, flags, Mode::empty())?;
    for child in names(&folder)? {
        remove_all(folder.as_fd(), &child)?;
    }
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Drops `.` and empty components and takes `..` up, never above the root. The root is empty.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// The folder and the name of a clean path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The path of `name` in the folder `path`.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}
