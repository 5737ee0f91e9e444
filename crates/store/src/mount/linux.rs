//! Mounting through the kernel's mount descriptors: fsopen, fsconfig, fsmount, open_tree.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_fstree::Root;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::{MountSpec, OverlayUpper, legacy, setattr};
use crate::Error;

/// Longest string that fsconfig takes, with its NUL.
const FSCONFIG_MAX: usize = 256;

/// Set when the kernel does not know `lowerdir+` (it came with 6.5).
static NO_LOWERDIR_PLUS: AtomicBool = AtomicBool::new(false);

impl MountSpec {
    /// Makes the mount, detached, and returns a descriptor (`O_PATH`) of its root.
    ///
    /// # Errors
    /// [`Error::Mount`]; [`Error::is_mount_denied`] tells whether this process may not mount at all.
    pub fn open_fd(&self) -> Result<OwnedFd, Error> {
        let outcome = match self {
            Self::Bind { path, read_only: false } => {
                rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| (e.into(), String::new()))
            }
            Self::Bind { path, read_only: true } => bind_read_only(path).map_err(|e| (e, String::new())),
            Self::Overlay { lowers, upper } => {
                if let Some(upper) = upper {
                    clear_volatile_mark(&upper.work);
                }
                self.overlay(lowers, upper.as_ref())
            }
        };
        outcome.map_err(|(source, hint)| Error::Mount { what: self.describe(), source, hint })
    }

    /// Makes the mount and attaches it at the folder `target`, in the mount namespace of the calling thread. For helper
    /// processes of one thread in a namespace of their own.
    ///
    /// # Errors
    /// [`Error::Mount`].
    pub fn mount_at(&self, target: &Path) -> Result<(), Error> {
        let fail = |source: io::Error| Error::Mount { what: self.describe(), source, hint: String::new() };
        let root = match self {
            // A descriptor of a plain folder is no mount yet.
            Self::Bind { path, read_only: false } => clone_tree(path).map_err(fail)?,
            _ => self.open_fd()?,
        };
        attach(root.as_fd(), target).map_err(fail)
    }

    pub(super) fn open_root(&self) -> Result<Root, Error> {
        self.open_fd().map(Root::from)
    }

    /// In a few words, for errors.
    fn describe(&self) -> String {
        match self {
            Self::Bind { path, .. } => format!("{}", path.display()),
            Self::Overlay { lowers, upper: Some(upper) } => {
                format!("an overlay of {} layers below {}", lowers.len(), upper.upper.display())
            }
            Self::Overlay { lowers, upper: None } => format!("an overlay of {} layers", lowers.len()),
        }
    }

    fn overlay(
        &self,
        lowers: &[std::path::PathBuf],
        upper: Option<&OverlayUpper>,
    ) -> Result<OwnedFd, (io::Error, String)> {
        let paths = lowers.iter().chain(upper.iter().flat_map(|u| [&u.upper, &u.work]));
        let fits = paths.into_iter().all(|path| path.as_os_str().len() < FSCONFIG_MAX);
        if fits && !NO_LOWERDIR_PLUS.load(Ordering::Relaxed) {
            match overlay(lowers, upper) {
                Ok(Some(root)) => return Ok(root),
                Ok(None) => NO_LOWERDIR_PLUS.store(true, Ordering::Relaxed),
                Err(error) => return Err(error),
            }
        }
        legacy::overlay(lowers, upper).map_err(|e| (e, String::new()))
    }
}

/// Attaches the detached mount `root` at `target`.
pub(super) fn attach(root: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    Ok(move_mount(root, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// A detached mount of the folder `path`.
pub(super) fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

fn bind_read_only(path: &Path) -> io::Result<OwnedFd> {
    let root = clone_tree(path)?;
    setattr::make_read_only(root.as_fd())?;
    Ok(root)
}

/// The kernel refuses an upper layer whose last mount was volatile, for it cannot know whether the machine stayed up.
/// The store does.
fn clear_volatile_mark(work: &Path) {
    let mark = work.join("work/incompat");
    if let Err(error) = std::fs::remove_dir_all(&mark)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %mark.display(), %error, "cannot clear overlay's volatile mark");
    }
}

/// Mounts through fsconfig; `None` when the kernel does not know `lowerdir+`.
fn overlay(
    lowers: &[std::path::PathBuf],
    upper: Option<&OverlayUpper>,
) -> Result<Option<OwnedFd>, (io::Error, String)> {
    let plain = |e: Errno| (e.into(), String::new());
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(plain)?;
    let logged = |e: Errno| (e.into(), kernel_log(context.as_fd()));
    for (n, lower) in lowers.iter().enumerate() {
        match fsconfig_set_string(&context, "lowerdir+", lower.as_path()) {
            Ok(()) => {}
            Err(Errno::INVAL) if n == 0 && kernel_log(context.as_fd()).contains("nknown parameter") => {
                return Ok(None);
            }
            Err(error) => {
                return Err((error.into(), format!("{}: {}", lower.display(), kernel_log(context.as_fd()))));
            }
        }
    }
    if let Some(upper) = upper {
        fsconfig_set_string(&context, "upperdir", upper.upper.as_path()).map_err(logged)?;
        fsconfig_set_string(&context, "workdir", upper.work.as_path()).map_err(logged)?;
        if upper.volatile {
            fsconfig_set_flag(&context, "volatile").map_err(logged)?;
        }
    }
    for option in legacy::OPTIONS {
        fsconfig_set_string(&context, option, "off").map_err(logged)?;
    }
    fsconfig_create(&context).map_err(logged)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(Some).map_err(logged)
}

/// What the kernel logged on a mount context: one message a read, each with a letter and a space before it.
fn kernel_log(context: BorrowedFd<'_>) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n) = rustix::io::read(context, &mut buffer) {
        if n == 0 || lines.len() > 8 {
            break;
        }
        lines.push(OsStr::from_bytes(&buffer[..n]).to_string_lossy().trim().to_owned());
    }
    lines.join("; ")
}
