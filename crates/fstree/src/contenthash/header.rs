//! The hash of one file: a header of text, then its bytes.
//!
//! The header is that of the first version of tar sums, without name and modification time:
//!
//! ```text
//! "name" "mode"420 "uid"0 "gid"0 "size"5 "typeflag"0 "linkname" "uname" "gname" "devmajor"0 "devminor"0
//! then for each extended attribute in order: name value
//! ```
//!
//! as one run of bytes, numbers in decimal, the type as in tar. Attributes that the system owns are left out.

use std::fmt::Write as _;

use kiln_oci::Digest;
use kiln_proto::fsutil::Stat;
use sha2::{Digest as _, Sha256};

use crate::meta::{Kind, Xattrs, go_mode};

/// A hash that has seen the header of a file and takes its bytes.
#[derive(Clone)]
pub struct FileHash {
    hasher: Sha256,
}

/// What of a file goes into its header.
pub(crate) struct Header<'a> {
    pub(crate) kind: Kind,
    /// The twelve Unix bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) link: &'a [u8],
    pub(crate) device: (i64, i64),
    pub(crate) xattrs: &'a Xattrs,
}

impl FileHash {
    /// Starts the hash of a file of the diff-copy protocol. A hard link has no hash of its own.
    #[must_use]
    pub fn new(stat: &Stat) -> Self {
        // What no kind describes counts as a regular file.
        let kind = go_mode::kind(stat.mode & !(go_mode::SOCKET | go_mode::IRREGULAR)).unwrap_or(Kind::File);
        Self::start(&Header {
            kind,
            mode: go_mode::unix(stat.mode),
            uid: stat.uid,
            gid: stat.gid,
            size: u64::try_from(stat.size).unwrap_or(0),
            link: &stat.linkname,
            device: (stat.devmajor, stat.devminor),
            xattrs: &stat.xattrs,
        })
    }

    pub(crate) fn start(header: &Header<'_>) -> Self {
        let (size, link, flag) = match header.kind {
            Kind::File | Kind::Socket => (header.size, &[][..], '0'),
            Kind::Symlink => (0, header.link, '2'),
            Kind::CharDevice => (0, &[][..], '3'),
            Kind::BlockDevice => (0, &[][..], '4'),
            Kind::Dir => (0, &[][..], '5'),
            Kind::Fifo => (0, &[][..], '6'),
        };
        let mut text = String::with_capacity(128);
        let (mode, uid, gid) = (header.mode, header.uid, header.gid);
        // Writing to a string cannot fail.
        write!(text, "namemode{mode}uid{uid}gid{gid}size{size}typeflag{flag}linkname").unwrap_or_default();
        let mut hasher = Sha256::new();
        hasher.update(&text);
        hasher.update(link);
        text.clear();
        let (major, minor) = header.device;
        write!(text, "unamegnamedevmajor{major}devminor{minor}").unwrap_or_default();
        hasher.update(&text);
        for (name, value) in header.xattrs {
            let systems = name.starts_with("security.") || name.starts_with("system.");
            if !systems || name == "security.capability" {
                hasher.update(name);
                hasher.update(value);
            }
        }
        Self { hasher }
    }

    /// Takes the next bytes of the file.
    pub fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
    }

    /// The content hash.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::from_sha256(self.finish_bytes())
    }

    pub(crate) fn finish_bytes(self) -> [u8; 32] {
        self.hasher.finalize().into()
    }
}

impl std::fmt::Debug for FileHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileHash")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Digest {
        Digest::sha256(text)
    }

    #[test]
    fn headers_spell_out_what_matters() {
        let stat = Stat { mode: 0o644, size: 5, mod_time: 99, path: "x".into(), ..Stat::default() };
        let mut hash = FileHash::new(&stat);
        hash.update(b"hello");
        let want = "namemode420uid0gid0size5typeflag0linknameunamegnamedevmajor0devminor0hello";
        assert_eq!(hash.finish(), plain(want));

        let dir = Stat {
            mode: go_mode::DIR | go_mode::STICKY | 0o777,
            uid: 1,
            gid: 2,
            size: 4096,
            ..Stat::default()
        };
        let want = "namemode1023uid1gid2size0typeflag5linknameunamegnamedevmajor0devminor0";
        assert_eq!(FileHash::new(&dir).finish(), plain(want));

        let link =
            Stat { mode: go_mode::SYMLINK | 0o777, linkname: "../t".into(), size: 4, ..Stat::default() };
        let want = "namemode511uid0gid0size0typeflag2linkname../tunamegnamedevmajor0devminor0";
        assert_eq!(FileHash::new(&link).finish(), plain(want));

        let device = go_mode::DEVICE | go_mode::CHAR_DEVICE;
        let null = Stat { mode: device | 0o666, devmajor: 1, devminor: 3, ..Stat::default() };
        let want = "namemode438uid0gid0size0typeflag3linknameunamegnamedevmajor1devminor3";
        assert_eq!(FileHash::new(&null).finish(), plain(want));
    }

    #[test]
    fn attributes_of_the_system_do_not_count() {
        let mut stat = Stat { mode: 0o644, ..Stat::default() };
        for (name, value) in [
            ("user.b", "2"),
            ("user.a", "1"),
            ("security.selinux", "x"),
            ("system.acl", "y"),
            ("security.capability", "c"),
        ] {
            stat.xattrs.insert(name.to_owned(), value.into());
        }
        let want = "namemode420uid0gid0size0typeflag0linknameunamegnamedevmajor0devminor0\
                    security.capabilitycuser.a1user.b2";
        assert_eq!(FileHash::new(&stat).finish(), plain(want));
    }
}
