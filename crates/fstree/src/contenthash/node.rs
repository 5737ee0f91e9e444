//! What is known of a tree: names, links, and hashes as far as somebody asked for them.
//!
//! Encoded, for keeping beside a snapshot:
//!
//! ```text
//! file    = version(1) node
//! node    = tag [header digest] [digest] [link] [entries]
//! tag     = kind (0 file, 1 link, 2 folder) | 4: has header digest | 8: has digest | 16: folder has been listed
//! digest  = 32 bytes, SHA-256
//! link    = length, bytes                      links only
//! entries = count, then for each: length, name, node   listed folders only, sorted
//! ```
//!
//! Lengths and counts are LEB128.

use std::collections::BTreeMap;

use kiln_oci::Digest;

use crate::error::{Error, Result};

/// A SHA-256 value.
pub(crate) type Sum = [u8; 32];

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// Anything that is neither of the others.
    File {
        digest: Option<Sum>,
    },
    Symlink {
        target: Box<[u8]>,
        digest: Option<Sum>,
    },
    Dir(Folder),
}

/// A folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Folder {
    /// Hash of its own metadata.
    pub(crate) header: Option<Sum>,
    /// Hash of header and all below.
    pub(crate) digest: Option<Sum>,
    /// `None` if nobody has looked.
    pub(crate) entries: Option<BTreeMap<Box<[u8]>, Node>>,
}

const VERSION: u8 = 1;
const HAS_HEADER: u8 = 4;
const HAS_DIGEST: u8 = 8;
const LISTED: u8 = 16;
/// How deep folders may lie in one another: recursion must end before the stack does.
pub(super) const DEPTH_MAX: usize = 1000;

impl Node {
    /// The digest, as far as it is known; of a folder, with all below.
    pub(crate) fn digest(&self) -> Option<Sum> {
        match self {
            Self::File { digest } | Self::Symlink { digest, .. } => *digest,
            Self::Dir(folder) => folder.digest,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::File { digest } => {
                out.push(flag(digest, HAS_DIGEST));
                out.extend(digest.iter().flatten());
            }
            Self::Symlink { target, digest } => {
                out.push(1 | flag(digest, HAS_DIGEST));
                out.extend(digest.iter().flatten());
                put_bytes(out, target);
            }
            Self::Dir(folder) => folder.encode(out),
        }
    }
}

impl Folder {
    /// A folder that is known to be empty, with a known header.
    pub(crate) fn empty(header: Option<Sum>) -> Self {
        Self { header, digest: None, entries: Some(BTreeMap::new()) }
    }

    /// The node at a path without links; `None` if it is not there or not known.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Node> {
        let mut parts = path.split(|&b| b == b'/');
        let mut node = self.entries.as_ref()?.get(parts.next()?)?;
        for part in parts {
            let Node::Dir(folder) = node else { return None };
            node = folder.entries.as_ref()?.get(part)?;
        }
        Some(node)
    }

    /// The folder at a path (empty: this one), if it is one. Forgets the digests of all on the way: something in it is
    /// about to change.
    pub(crate) fn change(&mut self, path: &[u8]) -> Option<&mut Self> {
        let mut folder = self;
        folder.digest = None;
        for part in path.split(|&b| b == b'/').filter(|p| !p.is_empty()) {
            match folder.entries.as_mut()?.get_mut(part)? {
                Node::Dir(next) => folder = next,
                _ => return None,
            }
            folder.digest = None;
        }
        Some(folder)
    }

    /// The folder at a path (empty: this one), if it is one.
    pub(crate) fn folder_mut(&mut self, path: &[u8]) -> Option<&mut Self> {
        let mut folder = self;
        for part in path.split(|&b| b == b'/').filter(|p| !p.is_empty()) {
            match folder.entries.as_mut()?.get_mut(part)? {
                Node::Dir(next) => folder = next,
                _ => return None,
            }
        }
        Some(folder)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        self.encode(&mut out);
        out
    }

    pub(crate) fn from_bytes(data: &[u8]) -> Result<Self> {
        let broken = || Error::Refused("content hashes are not in a form that this version reads".to_owned());
        let (&version, data) = data.split_first().ok_or_else(broken)?;
        let mut reader = Reader { data };
        match reader.node(0) {
            Some(Node::Dir(root)) if version == VERSION && reader.data.is_empty() => Ok(root),
            _ => Err(broken()),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let listed = if self.entries.is_some() { LISTED } else { 0 };
        out.push(2 | listed | flag(&self.header, HAS_HEADER) | flag(&self.digest, HAS_DIGEST));
        out.extend(self.header.iter().flatten());
        out.extend(self.digest.iter().flatten());
        let Some(entries) = &self.entries else { return };
        put_number(out, entries.len() as u64);
        for (name, node) in entries {
            put_bytes(out, name);
            node.encode(out);
        }
    }
}

fn flag(digest: &Option<Sum>, bit: u8) -> u8 {
    if digest.is_some() { bit } else { 0 }
}

fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// `None` from any of these: the bytes are not ours.
struct Reader<'a> {
    data: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.data.split_at_checked(len)?;
        self.data = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        let mut n = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = self.take(1)?[0];
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(n).ok();
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<Box<[u8]>> {
        let len = self.number()?;
        self.take(len).map(Into::into)
    }

    /// The outer `None` is an error, the inner a digest that is not known.
    #[expect(clippy::option_option, reason = "broken and absent are different things")]
    fn sum(&mut self, there: bool) -> Option<Option<Sum>> {
        if !there {
            return Some(None);
        }
        self.take(32)?.try_into().ok().map(Some)
    }

    fn node(&mut self, depth: usize) -> Option<Node> {
        if depth > DEPTH_MAX {
            return None;
        }
        let tag = self.take(1)?[0];
        let header = self.sum(tag & HAS_HEADER != 0)?;
        let digest = self.sum(tag & HAS_DIGEST != 0)?;
        match tag & !(HAS_DIGEST | HAS_HEADER) {
            0 => Some(Node::File { digest }),
            1 => Some(Node::Symlink { digest, target: self.bytes()? }),
            2 => Some(Node::Dir(Folder { header, digest, entries: None })),
            tag if tag == 2 | LISTED => {
                let mut entries = BTreeMap::new();
                for _ in 0..self.number()? {
                    let name = self.bytes()?;
                    entries.insert(name, self.node(depth + 1)?);
                }
                Some(Node::Dir(Folder { header, digest, entries: Some(entries) }))
            }
            _ => None,
        }
    }
}

/// The digest as it is written everywhere.
pub(crate) fn spelled(sum: Sum) -> Digest {
    Digest::from_sha256(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Folder {
        let mut root = Folder::empty(Some([1; 32]));
        let mut sub = Folder::empty(None);
        let put = |folder: &mut Folder, name: &[u8], node| {
            folder.entries.as_mut().expect("listed").insert(name.into(), node);
        };
        put(&mut sub, b"caf\xe9", Node::File { digest: Some([2; 32]) });
        put(&mut sub, b"l", Node::Symlink { target: b"../x".as_slice().into(), digest: None });
        put(&mut root, b"sub", Node::Dir(sub));
        put(&mut root, b"unknown", Node::Dir(Folder::default()));
        put(&mut root, &[b'n'; 300], Node::File { digest: None });
        root
    }

    #[test]
    fn encodings_round_trip() {
        let root = sample();
        assert_eq!(Folder::from_bytes(&root.to_bytes()).expect("ours"), root);
        let whole = root.to_bytes();
        for cut in 0..whole.len() {
            assert!(Folder::from_bytes(&whole[..cut]).is_err());
        }
        assert!(Folder::from_bytes(&[whole, vec![0]].concat()).is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let mut data = vec![VERSION];
        for _ in 0..100_000 {
            data.extend([2 | LISTED, 1, 1, b'a']);
        }
        data.push(0);
        assert!(Folder::from_bytes(&data).is_err());
    }

    #[test]
    fn changes_forget_what_is_above() {
        let mut root = sample();
        root.digest = Some([9; 32]);
        assert!(root.change(b"sub").is_some());
        assert_eq!(root.digest, None);
        assert!(root.change(b"sub/l").is_none());
        assert!(root.change(b"unknown/x").is_none());
        assert!(root.get(b"sub/l").is_some() && root.get(b"sub/l/x").is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(root) = Folder::from_bytes(&data) {
                prop_assert_eq!(Folder::from_bytes(&root.to_bytes()).expect("ours"), root);
            }
        }
    }
}
