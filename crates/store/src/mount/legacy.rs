//! Overlay mounts by mount(2), for kernels before 6.5 and for paths too long for fsconfig.
//!
//! All options must fit into one page, so layers are named relative to their common folder, which must be the working
//! folder; a thread of its own, with a mount namespace of its own, has one.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::{OverlayUpper, linux, setattr};

/// Overlay's options that are all turned off: layers must mean the same to every kernel and to our own readers of them.
pub(super) const OPTIONS: [&str; 3] = ["redirect_dir", "metacopy", "index"];

pub(super) fn overlay(lowers: &[PathBuf], upper: Option<&OverlayUpper>) -> io::Result<OwnedFd> {
    let common = common_folder(lowers, upper)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the layers have no folder in common"))?;
    let data = options(&common, lowers, upper)?;
    let work = || -> io::Result<OwnedFd> {
        setattr::unshare_mounts()?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        std::env::set_current_dir(&common)?;
        // In this namespace the common folder may be hidden: it goes with the thread. Paths resolve from the folder
        // that we are in, which stays reachable below the mount.
        mount("overlay", &common, "overlay", MountFlags::empty(), Some(data.as_c_str()))?;
        linux::clone_tree(&common)
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("kiln-mount".into())
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

fn common_folder(lowers: &[PathBuf], upper: Option<&OverlayUpper>) -> Option<PathBuf> {
    let mut all = lowers.iter().chain(upper.iter().flat_map(|u| [&u.upper, &u.work]));
    let mut common = all.next()?.parent()?.to_owned();
    for path in all {
        while !path.starts_with(&common) || *path == common {
            common = common.parent()?.to_owned();
        }
    }
    Some(common)
}

fn options(common: &Path, lowers: &[PathBuf], upper: Option<&OverlayUpper>) -> io::Result<CString> {
    let mut data = b"lowerdir=".to_vec();
    for (n, lower) in lowers.iter().enumerate() {
        if n > 0 {
            data.push(b':');
        }
        escape(common, lower, b":,\\", &mut data);
    }
    if let Some(upper) = upper {
        for (name, path) in [(&b",upperdir="[..], &upper.upper), (b",workdir=", &upper.work)] {
            data.extend(name);
            escape(common, path, b",\\", &mut data);
        }
        if upper.volatile {
            data.extend(b",volatile");
        }
    }
    for option in OPTIONS {
        data.extend(format!(",{option}=off").bytes());
    }
    if data.len() >= 4096 {
        let text = format!("{} layers do not fit into the options of one mount on this kernel", lowers.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(CString::new(data)?)
}

fn escape(common: &Path, path: &Path, special: &[u8], out: &mut Vec<u8>) {
    let relative = path.strip_prefix(common).unwrap_or(path);
    for &byte in relative.as_os_str().as_bytes() {
        if special.contains(&byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_relative_and_escaped() {
        let lowers = [PathBuf::from("/r/s/1-1/fs"), PathBuf::from("/r/s/1:2/f,s")];
        let upper =
            OverlayUpper { upper: "/r/s/1-3/fs".into(), work: "/r/s/1-3/work".into(), volatile: true };
        let common = common_folder(&lowers, Some(&upper)).unwrap();
        assert_eq!(common, Path::new("/r/s"));
        assert_eq!(
            options(&common, &lowers, Some(&upper)).unwrap().to_str().unwrap(),
            "lowerdir=1-1/fs:1\\:2/f\\,s,upperdir=1-3/fs,workdir=1-3/work,volatile,redirect_dir=off,metacopy=off,index=off"
        );
    }
}
