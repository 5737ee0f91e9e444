//! Who the program runs as: the user by the root's files, capabilities, the seccomp filter.

use std::os::fd::AsFd;

use rustix::fs::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::super::walk::{Make, walk};
use super::super::wire::Failure;
use super::super::{seccomp, sys};
use super::failure::{Doing, Result};
use crate::user::{self, ResolvedUser, UserFiles};

/// Most bytes of `/etc/passwd` and `/etc/group`.
const MAX_USER_FILE: u64 = 10 << 20;

/// Resolves `spec` in `root`; the home folder comes along if it is wanted.
pub(in crate::linux) fn resolve(
    root: impl AsFd,
    spec: &str,
    want_home: bool,
) -> Result<(ResolvedUser, Option<String>)> {
    let by_files = user::needs_files(spec);
    let root = root.as_fd();
    let mut files = UserFiles::default();
    if by_files || want_home {
        files.passwd = read(root, "/etc/passwd")?;
    }
    if by_files {
        files.group = read(root, "/etc/group")?;
    }
    let resolved = user::resolve(spec, &files).map_err(|error| match error {
        crate::Error::NoSuchUser { kind, name, .. } => {
            Failure::User { kind: u8::from(kind == "group"), name }
        }
        other => Failure::Invalid { problem: other.to_string() },
    })?;
    let home = want_home.then(|| {
        let home = files.passwd.as_deref().and_then(|passwd| user::home(passwd, resolved.uid));
        home.unwrap_or_else(|| "/".to_owned())
    });
    Ok((resolved, home))
}

/// A regular file of the root; `None` if there is none.
fn read(root: impl AsFd, path: &str) -> Result<Option<Vec<u8>>> {
    match walk(root, path, Make::Nothing) {
        Ok(found) => found.read(MAX_USER_FILE).doing(format_args!("read {path}")),
        Err(_) => Ok(None),
    }
}

/// Gives up what the program must not have: filter, capabilities, user. The last step before the program.
pub(super) fn assume(user: &ResolvedUser, sandbox: bool) -> Result<()> {
    if sandbox {
        // Without no_new_privs a filter needs a capability that is about to go.
        match seccomp::filter() {
            Some(filter) => sys::install_filter(filter).doing("install the seccomp filter")?,
            None => {
                return Err(Failure::Invalid {
                    problem: "no seccomp filter for this architecture".to_owned(),
                });
            }
        }
    }
    let permitted = rustix::thread::capabilities(None).doing("read capabilities")?.permitted;
    let keep = if sandbox {
        permitted & CapabilitySet::from_bits_retain(crate::defaults::CAPABILITY_BITS)
    } else {
        permitted
    };
    if sandbox {
        bound(keep).doing("drop capabilities from the bounding set")?;
    }
    rustix::thread::set_keep_capabilities(true).doing("keep capabilities")?;
    change_user(user).doing(format_args!("become user {}:{}", user.uid, user.gid))?;
    rustix::thread::set_keep_capabilities(false).doing("keep capabilities")?;
    let inheritable = if sandbox { CapabilitySet::empty() } else { keep };
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable };
    rustix::thread::set_capabilities(None, sets).doing("set capabilities")?;
    if !sandbox {
        for bit in bits(keep) {
            rustix::thread::configure_capability_in_ambient_set(bit, true)
                .doing("set ambient capabilities")?;
        }
    }
    Ok(())
}

fn bound(keep: CapabilitySet) -> rustix::io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel knows no such capability, nor any above.
            Err(rustix::io::Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

fn change_user(user: &ResolvedUser) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn bits(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..64).map(|number| CapabilitySet::from_bits_retain(1 << number)).filter(move |bit| set.contains(*bit))
}
