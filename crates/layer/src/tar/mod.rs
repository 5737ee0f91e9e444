//! Reading and writing of tar streams, as far as layers need them.
//!
//! An archive is a sequence of 512-byte blocks; each entry is a header block, then its content padded to whole blocks,
//! and two zero blocks end the archive. Fields of a header (POSIX ustar; offset, length):
//!
//! ```text
//!   0 100  name         124  12  size (octal)     257 6+2 "ustar\0" "00"
//! 100   8  mode         136  12  mtime (octal)    265  32 user name      297  32 group name
//! 108   8  uid          148   8  checksum         329   8 device major   337   8 device minor
//! 116   8  gid          156   1  type             345 155 name prefix
//!                       157 100  link name
//! ```
//!
//! What does not fit stands in an entry of type `x` before it (PAX, POSIX 1003.1-2001), whose content is a list of
//! records `"<length> <key>=<value>\n"`; GNU's older way, entries of type `L` and `K` holding a long name or link
//! target, is read but never written. Sparse files are an error.

mod reader;
mod writer;

use std::collections::BTreeMap;

pub use reader::TarReader;
pub use writer::TarWriter;

/// Size of a block in bytes.
pub(crate) const BLOCK: usize = 512;

/// The most that one extended header (PAX records, GNU long name) may hold, in bytes.
pub const MAX_EXTENDED: u64 = 1 << 20;

/// Prefix of PAX keys that carry extended attributes; the rest of the key is the attribute's name.
pub const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What kind of file an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file with content.
    File,
    /// A further name of an earlier entry; the link target is that entry's name.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A folder.
    Directory,
    /// A named pipe.
    Fifo,
}

impl Kind {
    /// The type byte of the header.
    pub(crate) fn flag(self) -> u8 {
        match self {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }
}

/// A point in time: seconds since 1970 (negative before) and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds since the start of 1970 in UTC.
    pub seconds: i64,
    /// Nanoseconds from 0 to 999 999 999.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Whole seconds since 1970.
    pub fn from_seconds(seconds: i64) -> Self {
        Timestamp { seconds, nanoseconds: 0 }
    }
}

/// Everything that an archive says of one entry but its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name, `/` between components, bytes as they are.
    pub path: Vec<u8>,
    /// The type.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits; some writers add file type bits, which readers ignore.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u64,
    /// Numeric group.
    pub gid: u64,
    /// Length of the content in bytes; 0 for all but regular files.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Access time, if the archive has it.
    pub atime: Option<Timestamp>,
    /// Target of a hard or symbolic link, else empty.
    pub link: Vec<u8>,
    /// Major and minor number of a device, else zeros.
    pub device: (u32, u32),
    /// Further PAX records by key: extended attributes under [`XATTR_PREFIX`], vendor records.
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Header {
    /// A header of `kind` for `path` with mode, owners, size and times all zero.
    pub fn new(kind: Kind, path: impl Into<Vec<u8>>) -> Self {
        Header {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::default(),
            atime: None,
            link: Vec::new(),
            device: (0, 0),
            records: BTreeMap::new(),
        }
    }

    /// The extended attributes: name and value.
    pub fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(XATTR_PREFIX)?, value.as_slice())))
    }

    /// Adds an extended attribute.
    pub fn set_xattr(&mut self, name: &[u8], value: Vec<u8>) {
        self.records.insert([XATTR_PREFIX, name].concat(), value);
    }
}

/// Bytes from `size` to the end of its last block.
pub(crate) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// A name for error messages: UTF-8 where it is, other bytes replaced.
pub(crate) fn display_path(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
