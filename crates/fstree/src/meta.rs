//! What a file is, apart from its content: the one form in which the whole project sees ownership, modes and times.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// What sort of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Extended attributes by name (`user.a`, `security.capability`, …).
pub type Xattrs = BTreeMap<String, Bytes>;

/// A point in time: seconds since the epoch, which may be negative, and nanoseconds (below 1e9) after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds, 0..1_000_000_000.
    pub nanos: u32,
}

impl Time {
    /// From nanoseconds since the epoch.
    #[must_use]
    pub fn from_nanos(nanos: i64) -> Self {
        let rest = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
        Self { secs: nanos.div_euclid(1_000_000_000), nanos: rest }
    }

    /// Nanoseconds since the epoch; times before 1677 and after 2262 become the nearest that fits.
    #[must_use]
    pub fn as_nanos(self) -> i64 {
        let nanos = i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos);
        i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => {
                Self { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() }
            }
            Err(before) => {
                let before = i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX);
                Self::from_nanos(-before)
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let whole = Duration::from_secs(time.secs.unsigned_abs());
        let base = if time.secs < 0 {
            Self::UNIX_EPOCH.checked_sub(whole)
        } else {
            Self::UNIX_EPOCH.checked_add(whole)
        };
        base.and_then(|t| t.checked_add(Duration::from_nanos(time.nanos.into()))).unwrap_or(Self::UNIX_EPOCH)
    }
}

/// All that `lstat` tells of a file. Read and written through [`Dir`](crate::Dir) only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Sort of file.
    pub kind: Kind,
    /// The twelve mode bits: permissions, set-user-ID, set-group-ID, sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of a regular file or of a link's target, in bytes. Whatever the file system says for other kinds.
    pub size: u64,
    /// When the content was last changed.
    pub mtime: Time,
    /// When it was last read.
    pub atime: Time,
    /// Major and minor number of a device; zero for other kinds.
    pub device: (u32, u32),
    /// How many names the file has.
    pub links: u64,
    /// File system and inode: equal for two names of one file.
    pub inode: (u64, u64),
    /// Bytes that it takes on disk.
    pub allocated: u64,
}

impl Metadata {
    /// Whether it is a folder.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.kind == Kind::Symlink
    }

    /// Kind and mode as Go's `os.FileMode`, which the protocols carry.
    #[must_use]
    pub fn go_mode(&self) -> u32 {
        go_mode::encode(self.kind, self.mode)
    }
}

/// Go's `os.FileMode`: permissions as everywhere, all else in bits of its own.
pub mod go_mode {
    use super::Kind;

    /// Folder.
    pub const DIR: u32 = 1 << 31;
    /// Symbolic link.
    pub const SYMLINK: u32 = 1 << 27;
    /// Device: a block device unless `CHAR_DEVICE` is set too.
    pub const DEVICE: u32 = 1 << 26;
    /// Named pipe.
    pub const FIFO: u32 = 1 << 25;
    /// Socket.
    pub const SOCKET: u32 = 1 << 24;
    /// Set-user-ID.
    pub const SETUID: u32 = 1 << 23;
    /// Set-group-ID.
    pub const SETGID: u32 = 1 << 22;
    /// Character device, together with `DEVICE`.
    pub const CHAR_DEVICE: u32 = 1 << 21;
    /// Sticky.
    pub const STICKY: u32 = 1 << 20;
    /// Something that no other bit describes.
    pub const IRREGULAR: u32 = 1 << 19;
    /// All bits that say what kind it is. None of them: a regular file.
    pub const TYPE: u32 = DIR | SYMLINK | FIFO | SOCKET | DEVICE | CHAR_DEVICE | IRREGULAR;

    /// Kind and the twelve Unix mode bits as Go has them.
    #[must_use]
    pub fn encode(kind: Kind, mode: u32) -> u32 {
        let kind = match kind {
            Kind::File => 0,
            Kind::Dir => DIR,
            Kind::Symlink => SYMLINK,
            Kind::CharDevice => DEVICE | CHAR_DEVICE,
            Kind::BlockDevice => DEVICE,
            Kind::Fifo => FIFO,
            Kind::Socket => SOCKET,
        };
        let special = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
        special.iter().fold(kind | mode & 0o777, |m, (unix, go)| if mode & unix != 0 { m | go } else { m })
    }

    /// The kind, `None` if the bits describe none of ours.
    #[must_use]
    pub fn kind(go: u32) -> Option<Kind> {
        Some(match go & TYPE {
            0 => Kind::File,
            DIR => Kind::Dir,
            SYMLINK => Kind::Symlink,
            DEVICE => Kind::BlockDevice,
            bits if bits == DEVICE | CHAR_DEVICE || bits == CHAR_DEVICE => Kind::CharDevice,
            FIFO => Kind::Fifo,
            SOCKET => Kind::Socket,
            _ => return None,
        })
    }

    /// The twelve Unix mode bits.
    #[must_use]
    pub fn unix(go: u32) -> u32 {
        let special = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
        special.iter().fold(go & 0o777, |m, (unix, bit)| if go & bit != 0 { m | unix } else { m })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_modes_round_trip() {
        for kind in [
            Kind::File,
            Kind::Dir,
            Kind::Symlink,
            Kind::CharDevice,
            Kind::BlockDevice,
            Kind::Fifo,
            Kind::Socket,
        ] {
            for mode in [0, 0o644, 0o1777, 0o4755, 0o2750, 0o7777] {
                let go = go_mode::encode(kind, mode);
                assert_eq!((go_mode::kind(go), go_mode::unix(go)), (Some(kind), mode));
            }
        }
        assert_eq!(go_mode::encode(Kind::Dir, 0o1777), 0x8010_01ff);
        assert_eq!(go_mode::kind(go_mode::IRREGULAR), None);
        assert_eq!(go_mode::kind(go_mode::DIR | go_mode::SYMLINK), None);
    }

    #[test]
    fn times_before_the_epoch() {
        let t = Time::from_nanos(-1);
        assert_eq!(t, Time { secs: -1, nanos: 999_999_999 });
        assert_eq!(t.as_nanos(), -1);
        assert_eq!(Time::from(SystemTime::from(t)), t);
        assert_eq!(Time { secs: i64::MAX, nanos: 0 }.as_nanos(), i64::MAX);
    }
}
