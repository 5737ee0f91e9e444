//! A folder that paths are resolved in, and never out of.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dir::{Dir, DirEntry};
use crate::error::{Context as _, Error, Result};
use crate::meta::Metadata;

/// A file tree: a folder that is the `/` of every path given to it. It may be a mount that is attached nowhere.
///
/// Paths may be absolute or relative, which is the same, and are cleaned by their text first, so that `..` never
/// climbs above the root. Symbolic links are followed by the kernel as if the process were chrooted here: whatever
/// links the tree holds, and whoever changes it at the time, nothing outside is reached.
#[derive(Debug)]
pub struct Root {
    dir: Dir,
}

/// How many links a resolution follows.
const LINKS_MAX: usize = 255;

impl From<Dir> for Root {
    fn from(dir: Dir) -> Self {
        Self { dir }
    }
}

#[cfg(unix)]
impl From<std::os::fd::OwnedFd> for Root {
    fn from(fd: std::os::fd::OwnedFd) -> Self {
        Self { dir: fd.into() }
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Root {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Root {
    /// Opens a folder of the host as a root.
    ///
    /// # Errors
    /// If it is not there or no folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { dir: Dir::open_host(path.as_ref()).at("open", path)? })
    }

    /// The root folder itself.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// A second handle on the same tree.
    ///
    /// # Errors
    /// Those of `fcntl(F_DUPFD)`.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { dir: self.dir.try_clone().at("dup", "/")? })
    }

    /// The folder at `path`, links followed.
    ///
    /// # Errors
    /// If it is not there or no folder.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<Dir> {
        self.dir.resolve_dir(&inside(path.as_ref())).at("open", path)
    }

    /// The tree below `path` as a root of its own.
    ///
    /// # Errors
    /// If it is not there or no folder.
    pub fn subtree(&self, path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { dir: self.open_dir(path)? })
    }

    /// The folder that `path` lies in, links followed, and its last component, which is not.
    ///
    /// # Errors
    /// If the folder is not there, or if `path` is the root itself.
    pub fn parent(&self, path: impl AsRef<Path>) -> Result<(Dir, OsString)> {
        let clean = inside(path.as_ref());
        let Some(name) = clean.file_name() else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput)).at("open parent of", path);
        };
        let parent = clean.parent().unwrap_or(Path::new(""));
        Ok((self.dir.resolve_dir(parent).at("open", &path)?, name.to_owned()))
    }

    /// What is at `path`; a link at its end is not followed.
    ///
    /// # Errors
    /// If it is not there.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.dir.resolve_stat(&inside(path.as_ref()), false).at("lstat", path)
    }

    /// What `path` leads to, all links followed.
    ///
    /// # Errors
    /// If it is not there.
    pub fn stat_follow(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.dir.resolve_stat(&inside(path.as_ref()), true).at("stat", path)
    }

    /// The target of the symbolic link at `path`.
    ///
    /// # Errors
    /// If it is not there or no link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        self.dir.resolve_link(&inside(path.as_ref())).at("readlink", path)
    }

    /// Opens what `path` leads to for reading, all links followed. Pipes and devices do not block here.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        self.dir.resolve_file(&inside(path.as_ref())).at("open", path)
    }

    /// The whole of a regular file, all links followed.
    ///
    /// # Errors
    /// If it is not there, not a regular file, or longer than `limit` bytes.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let file = self.open_file(path)?;
        let meta = crate::dir::file::metadata(&file).at("stat", path)?;
        if !meta.is_file() {
            return Err(Error::Refused(format!("{} is not a regular file", path.display())));
        }
        let mut data = Vec::with_capacity(usize::try_from(meta.size.min(limit)).unwrap_or(0));
        file.take(limit.saturating_add(1)).read_to_end(&mut data).at("read", path)?;
        if data.len() as u64 > limit {
            return Err(Error::Refused(format!("{} exceeds {limit} bytes", path.display())));
        }
        Ok(data)
    }

    /// The entries of the folder at `path`, sorted by name.
    ///
    /// # Errors
    /// If it is not there or no folder.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        self.open_dir(&path)?.list().at("readdir", path)
    }

    /// Writes a regular file: a new one beside, then renamed over what was there, so that neither a reader nor another
    /// name of the old file sees half of it. The parent must exist.
    ///
    /// # Errors
    /// If it cannot be written, or if a folder is there.
    pub fn write(&self, path: impl AsRef<Path>, data: &[u8], mode: u32) -> Result<()> {
        let (dir, name) = self.parent(&path)?;
        let aside = temporary_name();
        let mut file = dir.create_new(&aside, mode).at("create", &path)?;
        let done = file.write_all(data).and_then(|()| dir.rename(&aside, &dir, &name));
        if done.is_err() {
            // The error that matters is the first.
            dir.unlink(&aside).unwrap_or_default();
        }
        done.at("write", path)
    }

    /// Makes the folder at `path` and those above it that are missing, with these mode bits. Links on the way are
    /// followed, also those whose target is missing. Returns the paths of the folders made, outermost first.
    ///
    /// # Errors
    /// If something on the way is not a folder.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<Vec<PathBuf>> {
        let path = path.as_ref();
        match self.dir.resolve_dir(&inside(path)) {
            Ok(_) => return Ok(Vec::new()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).at("mkdir", path),
        }
        let (mut made, mut so_far) = (Vec::new(), PathBuf::new());
        let mut dir = self.dir.try_clone().at("mkdir", path)?;
        for name in &self.resolve(path)? {
            so_far.push(name);
            match dir.mkdir(name, mode) {
                Ok(()) => made.push(so_far.clone()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).at("mkdir", so_far),
            }
            dir = dir.open_dir(name).at("mkdir", &so_far)?;
        }
        Ok(made)
    }

    /// The path that `path` leads to, relative and without links, as the tree is now: components that are missing stay
    /// as they are. The result is a name for a place, not a proof: it is safe to use with this root's functions only.
    ///
    /// # Errors
    /// If there are too many links or a folder cannot be read.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let mut done = PathBuf::new();
        let mut todo: Vec<OsString> = parts(&inside(path));
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let target = match self.dir.resolve_stat(&next, false) {
                Ok(meta) if meta.is_symlink() => self.dir.resolve_link(&next).at("readlink", path)?,
                Ok(_) => {
                    done = next;
                    continue;
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    done = next;
                    continue;
                }
                Err(e) => return Err(e).at("lstat", path),
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::other("too many levels of symbolic links")).at("resolve", path);
            }
            if target.has_root() {
                done = PathBuf::new();
            }
            todo.extend(parts(&target));
        }
        Ok(done)
    }

    /// Removes the file or empty folder at `path`; a link itself.
    ///
    /// # Errors
    /// If it is not there or not empty.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(&path)?;
        let done =
            if dir.stat(&name).at("remove", &path)?.is_dir() { dir.rmdir(&name) } else { dir.unlink(&name) };
        done.at("remove", path)
    }

    /// Removes whatever is at `path`, with all that is in it; a link itself. What is not there is removed already.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<()> {
        match self.parent(&path) {
            Ok((dir, name)) => dir.remove_all(&name).at("remove", path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes whatever is in the tree, but not its root, whose owner and mode stay as they are.
    ///
    /// # Errors
    /// If something in it cannot be listed or removed.
    pub fn clear(&self) -> Result<()> {
        for entry in self.dir.list().at("list", "/")? {
            self.dir.remove_all(&entry.name).at("remove", &entry.name)?;
        }
        Ok(())
    }

    /// Renames within the tree, replacing what has the new name. Links at the ends are not followed.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from_dir, from_name) = self.parent(&from)?;
        let (to_dir, to_name) = self.parent(&to)?;
        from_dir.rename(&from_name, &to_dir, &to_name).at("rename", from)
    }

    /// Makes a symbolic link at `path`.
    ///
    /// # Errors
    /// If there is something already.
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(&path)?;
        dir.symlink(target.as_ref(), &name).at("symlink", path)
    }
}

/// A path relative to the root, cleaned by its text.
pub(crate) fn inside(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    out
}

/// The components that matter to a resolution, last first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().rev().filter_map(part).collect()
}

/// A name that no other call of this process uses, for files that are renamed when they are whole.
pub(crate) fn temporary_name() -> OsString {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(".kiln-{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(dir.path().join("root")).expect("mkdir");
        std::fs::write(dir.path().join("secret"), "outside").expect("write");
        let root = Root::open(dir.path().join("root")).expect("open");
        (dir, root)
    }

    #[test]
    fn a_cleared_tree_is_empty_and_nothing_beside_it_is_gone() {
        let (dir, root) = tree();
        root.mkdir_all("a/b", 0o755).expect("mkdir");
        root.write("a/b/c", b"", 0o600).expect("write");
        root.write("d", b"", 0o600).expect("write");
        symlink(dir.path(), dir.path().join("root/out")).expect("symlink");
        root.clear().expect("clear");
        assert!(root.list("").expect("list").is_empty());
        assert!(dir.path().join("secret").is_file());
        root.clear().expect("clear nothing");
    }

    #[test]
    fn nothing_leads_out() {
        let (dir, root) = tree();
        let at = |name: &str| dir.path().join("root").join(name);
        symlink("../secret", at("up")).expect("symlink");
        symlink(dir.path().join("secret"), at("absolute")).expect("symlink");
        symlink("..", at("dots")).expect("symlink");
        symlink("/", at("slash")).expect("symlink");
        for path in
            ["up", "absolute", "dots/secret", "slash/secret", "../secret", "/../../secret", "slash/../secret"]
        {
            assert!(root.read(path, 100).expect_err(path).is_not_found(), "{path}");
            assert!(root.stat_follow(path).is_err(), "{path}");
        }
        // What is written through them stays inside, too.
        root.write("dots/secret", b"inside", 0o600).expect("write");
        assert_eq!(std::fs::read(at("secret")).expect("read"), b"inside");
        assert_eq!(std::fs::read(dir.path().join("secret")).expect("read"), b"outside");
        // Now the links lead to the file inside.
        assert_eq!(root.read("up", 100).expect("read"), b"inside");
    }

    #[test]
    fn magic_links_are_refused() {
        let (_dir, _) = tree();
        let root = Root::open("/proc").expect("open");
        assert!(root.open_dir("self/root").is_err());
        assert!(root.open_dir("self/cwd").is_err());
    }

    #[test]
    fn a_folder_that_becomes_a_link_is_never_followed_out() {
        let (dir, root) = tree();
        let inner = dir.path().join("root/d");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _made = std::fs::create_dir(&inner);
                    let _removed = std::fs::remove_dir(&inner);
                    let _linked = symlink(dir.path(), &inner);
                    let _unlinked = std::fs::remove_file(&inner);
                }
            });
            for _ in 0..2000 {
                assert_ne!(root.read("d/secret", 100).ok().as_deref(), Some(&b"outside"[..]));
                let _written = root.write("d/secret", b"x", 0o600);
                let _removed = root.remove_all("d/secret");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(std::fs::read(dir.path().join("secret")).expect("read"), b"outside");
    }

    #[test]
    fn mkdir_all_follows_links_inside() {
        let (dir, root) = tree();
        let at = |name: &str| dir.path().join("root").join(name);
        symlink("/new/place", at("l")).expect("symlink");
        let made = root.mkdir_all("l/../l/x", 0o750).expect("mkdir");
        assert_eq!(made, ["new", "new/place", "new/place/x"].map(PathBuf::from));
        assert_eq!(root.stat("new/place/x").expect("stat").mode, 0o750);
        assert!(root.mkdir_all("new/place", 0o750).expect("again").is_empty());
        std::fs::write(at("file"), "").expect("write");
        assert!(root.mkdir_all("file/x", 0o755).is_err());
        symlink("loop", at("loop")).expect("symlink");
        assert!(root.mkdir_all("loop/x", 0o755).is_err());
    }

    #[test]
    fn write_replaces_and_leaves_other_names_alone() {
        let (dir, root) = tree();
        root.write("a", b"old", 0o640).expect("write");
        std::fs::hard_link(dir.path().join("root/a"), dir.path().join("other")).expect("link");
        root.write("a", b"new", 0o777).expect("write");
        assert_eq!(std::fs::read(dir.path().join("other")).expect("read"), b"old");
        let meta = root.stat("a").expect("stat");
        assert_eq!((meta.mode, meta.size, meta.links), (0o777, 3, 1));
        root.mkdir_all("d", 0o755).expect("mkdir");
        assert!(root.write("d", b"", 0o644).is_err());
        assert_eq!(root.list("/").expect("list").len(), 2);
    }

    #[test]
    fn limits_and_kinds_of_what_is_read() {
        let (_dir, root) = tree();
        root.write("a", b"12345", 0o600).expect("write");
        assert!(root.read("a", 5).is_ok());
        assert!(root.read("a", 4).is_err());
        root.mkdir_all("d", 0o755).expect("mkdir");
        assert!(root.read("d", 4).is_err());
        assert!(root.parent("/").is_err());
        assert!(root.parent("a/..").is_err());
    }

    #[test]
    fn deep_trees_are_removed_with_few_descriptors() {
        let (_dir, root) = tree();
        let mut dir = root.dir().try_clone().expect("clone");
        for _ in 0..3000 {
            dir.mkdir(OsStr::new("d"), 0o755).expect("mkdir");
            dir = dir.open_dir(OsStr::new("d")).expect("open");
        }
        dir.create_new(OsStr::new("f"), 0o600).expect("create");
        root.remove_all("d").expect("remove");
        assert!(root.list("/").expect("list").is_empty());
    }
}
