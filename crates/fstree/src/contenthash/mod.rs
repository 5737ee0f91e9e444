//! BuildKit's content checksums over a tree: what makes a copied file a cache key.
//!
//! * A file's checksum is that of its [header and bytes](FileHash); a hard link's is that of the file.
//! * A folder's is the hash of `NUL`, the digest of its own header, and for each entry in order of bytes `NUL`, its name
//!   and its digest, digests spelled out (`sha256:…`).
//! * With wildcards, includes or excludes, the headers of folders and the files that match are hashed one after the
//!   other, each by its path with `NUL` for `/` and its digest; folders on the way to a match count, too. One match of
//!   the name that was asked for is its own digest; no match is the hash of nothing.
//! * Symbolic links on the way are followed inside the tree, at the end only if asked for.
//!
//! A quirk that is part of the format: the root of a tree that came by a transfer has the hash of nothing as its
//! header, see [`HashCache::of_empty_tree`].

mod header;
mod list;
mod node;
mod scan;
mod select;

use kiln_oci::Digest;
use kiln_pattern::clean;
use sha2::{Digest as _, Sha256};

use crate::diffcopy::{Change, ChangeKind};
use crate::meta::go_mode;
use crate::names::{lossy, split};
use crate::{Error, Result, Root};
use node::{Folder, Node, Sum, spelled};
use scan::Missing;
use select::{Selected, Selector};

pub use header::FileHash;
pub use list::{Listed, Listing};

/// What part of a tree to hash, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChecksumOptions {
    /// A symbolic link at the end of the path stands for what it leads to.
    pub follow_links: bool,
    /// The path may hold wildcards.
    pub wildcard: bool,
    /// If any: only what matches one of these, relative to the path.
    pub include: Vec<String>,
    /// Not what matches one of these, relative to the path.
    pub exclude: Vec<String>,
    /// Paths of which something must be included, else the result is [`Error::NotFound`].
    pub required: Vec<String>,
}

/// A tree that may cost something to get at, and is asked for only when a file must be read.
pub trait Tree {
    /// The tree.
    ///
    /// # Errors
    /// If it cannot be mounted.
    fn root(&self) -> Result<&Root>;
}

impl Tree for Root {
    fn root(&self) -> Result<&Root> {
        Ok(self)
    }
}

/// How many links one path may lead through.
const LINKS_MAX: usize = 255;

/// The hashes that are known of one snapshot. Filled as they are asked for; to be kept beside the snapshot.
#[derive(Debug, Clone, Default)]
pub struct HashCache {
    root: Folder,
    dirty: bool,
}

impl HashCache {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree is known to be empty: the start for a first transfer into a new folder, whose changes are then
    /// [applied](Self::apply). From there on the cache knows all of the tree and never looks at it for names.
    #[must_use]
    pub fn of_empty_tree() -> Self {
        Self { root: Folder::empty(Some(Sha256::digest([]).into())), dirty: true }
    }

    /// Nothing is known of a tree that a transfer has filled, perhaps not to its end, but what is the same for all such
    /// trees: transfers say nothing of the tree's own folder.
    #[must_use]
    pub fn of_transferred_tree() -> Self {
        let root = Folder { header: Some(Sha256::digest([]).into()), ..Folder::default() };
        Self { root, dirty: true }
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If the bytes are none of ours; the cache can then be started anew.
    pub fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self { root: Folder::from_bytes(data)?, dirty: false })
    }

    /// The cache as bytes, and from here on [not dirty](Self::is_dirty).
    pub fn encode(&mut self) -> Vec<u8> {
        self.dirty = false;
        self.root.to_bytes()
    }

    /// Whether anything has been learnt since the cache was made, read or encoded.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Carries the cache over a transfer: what did not change stays known, what came is known already.
    /// Without digests in the changes, what changed is forgotten.
    pub fn apply(&mut self, changes: &[Change]) {
        self.dirty |= !changes.is_empty();
        let is_link = |change: &&Change| {
            change.stat.as_ref().is_some_and(|s| !s.linkname.is_empty() && s.mode & go_mode::SYMLINK == 0)
        };
        for change in changes {
            self.apply_one(change);
        }
        // The file that a link names may have come after it.
        for change in changes.iter().filter(is_link) {
            let Some(stat) = &change.stat else { continue };
            let digest = self.root.get(&stat.linkname).and_then(Node::digest);
            let (parent, name) = split(&change.path);
            if let Some(entries) = self.root.change(parent).and_then(|f| f.entries.as_mut()) {
                entries.insert(name.into(), Node::File { digest });
            }
        }
    }

    fn apply_one(&mut self, change: &Change) {
        let (parent, name) = split(&change.path);
        // Of a folder that nobody has listed there is nothing to forget.
        let Some(entries) = self.root.change(parent).and_then(|f| f.entries.as_mut()) else { return };
        let Some(stat) = change.stat.as_ref().filter(|_| change.kind != ChangeKind::Delete) else {
            entries.remove(name);
            return;
        };
        let digest = change.digest.as_ref().and_then(sum_of);
        let node = if stat.mode & go_mode::DIR != 0 {
            let mut folder = match entries.remove(name) {
                Some(Node::Dir(folder)) => folder,
                _ => Folder::empty(None),
            };
            folder.header = digest;
            folder.digest = None;
            Node::Dir(folder)
        } else if stat.mode & go_mode::SYMLINK != 0 {
            Node::Symlink { target: stat.linkname[..].into(), digest }
        } else {
            Node::File { digest }
        };
        entries.insert(name.into(), node);
    }

    /// The checksum of `path` in the tree.
    ///
    /// # Errors
    /// If nothing is there, or the tree cannot be read.
    pub fn checksum(&mut self, tree: &dyn Tree, path: &str, options: &ChecksumOptions) -> Result<Digest> {
        let asked = clean(&format!("/{path}"));
        let key = if asked == "/" { "" } else { &asked };
        if !options.wildcard && options.include.is_empty() && options.exclude.is_empty() {
            return self.single(tree, key, options.follow_links).map(spelled);
        }
        let selected = self.select(tree, key, path.ends_with('/'), options)?;
        for required in &options.required {
            if !selected.iter().any(|s| s.path.starts_with(required.as_bytes())) {
                return Err(Error::NotFound(required.clone()));
            }
        }
        let sums = self.sums(tree, &selected)?;
        if let ([one], [sum]) = (&selected[..], &sums[..])
            && !one.path.is_empty()
            && split(&one.path).1 == split(asked.as_bytes()).1
        {
            return Ok(spelled(*sum));
        }
        let prefix = if options.wildcard { select::plain_prefix(key).0 } else { key };
        let mut hash = Sha256::new();
        for (entry, sum) in selected.iter().zip(sums) {
            let path = entry.path.strip_prefix(prefix.as_bytes()).unwrap_or(&entry.path);
            let path: Vec<u8> = path.iter().map(|&b| if b == b'/' { 0 } else { b }).collect();
            hash.update(if path.is_empty() { &[0] } else { &path[..] });
            hash.update(spelled(sum).as_str());
        }
        Ok(spelled(hash.finalize().into()))
    }

    fn single(&mut self, tree: &dyn Tree, key: &str, follow: bool) -> Result<Sum> {
        let not_found = || Error::NotFound(if key.is_empty() { "/".to_owned() } else { key.to_owned() });
        let real = self.resolve(tree, key.as_bytes(), follow)?.ok_or_else(not_found)?;
        if let Some(known) =
            if real.is_empty() { self.root.digest } else { self.root.get(&real).and_then(Node::digest) }
        {
            return Ok(known);
        }
        self.dirty = true;
        let mut missing = Vec::new();
        let fill = |root: &mut Folder, step: &mut Filling<'_>| {
            if real.is_empty() {
                return visit_folder(root, real.clone(), step);
            }
            let (parent, name) = split(&real);
            let node = root.folder_mut(parent).and_then(|f| f.entries.as_mut()).and_then(|e| e.get_mut(name));
            node.map_or(Ok(()), |node| visit(node, real.clone(), step))
        };
        fill(&mut self.root, &mut Filling::Collect { tree, missing: &mut missing })?;
        let sums = scan::hash_all(tree, &missing)?;
        fill(&mut self.root, &mut Filling::Store { sums: sums.into_iter() })?;
        let done =
            if real.is_empty() { self.root.digest } else { self.root.get(&real).and_then(Node::digest) };
        done.ok_or_else(not_found)
    }

    fn select(
        &mut self,
        tree: &dyn Tree,
        key: &str,
        without_top: bool,
        options: &ChecksumOptions,
    ) -> Result<Vec<Selected>> {
        let (prefix, wild) = if options.wildcard { select::plain_prefix(key) } else { (key, false) };
        let Some(real) = self.resolve(tree, prefix.as_bytes(), wild)? else { return Ok(Vec::new()) };
        self.dirty = true;
        Selector::new(tree, key, without_top, options)?.run(&mut self.root, prefix.into(), real)
    }

    /// The digests of what was selected: of headers for folders, of what they lead to for links that are followed.
    fn sums(&mut self, tree: &dyn Tree, selected: &[Selected]) -> Result<Vec<Sum>> {
        let known = |root: &Folder, entry: &Selected| match root.get(&entry.real) {
            _ if entry.real.is_empty() => root.header,
            Some(Node::Dir(folder)) => folder.header,
            node => node.and_then(Node::digest),
        };
        let needed = |entry: &&Selected| !entry.follow && known(&self.root, entry).is_none();
        let missing: Vec<Missing> = selected
            .iter()
            .filter(needed)
            .map(|e| Missing { path: e.real.clone(), is_dir: e.is_dir })
            .collect();
        if !missing.is_empty() {
            self.dirty = true;
            let sums = scan::hash_all(tree, &missing)?;
            for (entry, sum) in missing.iter().zip(sums) {
                self.learn(&entry.path, sum);
            }
        }
        let mut sums = Vec::with_capacity(selected.len());
        for entry in selected {
            let sum = if entry.follow {
                Some(self.single(tree, &lossy(&entry.path), true)?)
            } else {
                known(&self.root, entry)
            };
            sums.push(sum.ok_or_else(|| Error::NotFound(lossy(&entry.path).into_owned()))?);
        }
        Ok(sums)
    }

    /// Stores the digest of a file or link, or the header of a folder.
    fn learn(&mut self, real: &[u8], sum: Sum) {
        if real.is_empty() {
            self.root.header = Some(sum);
            return;
        }
        let (parent, name) = split(real);
        let node =
            self.root.folder_mut(parent).and_then(|f| f.entries.as_mut()).and_then(|e| e.get_mut(name));
        match node {
            Some(Node::Dir(folder)) => folder.header = Some(sum),
            Some(Node::File { digest } | Node::Symlink { digest, .. }) => *digest = Some(sum),
            None => {}
        }
    }

    /// The path without links that `key` leads to, relative; `None` if there is nothing. Folders are listed on the way.
    fn resolve(&mut self, tree: &dyn Tree, key: &[u8], follow_last: bool) -> Result<Option<Vec<u8>>> {
        let mut here: Vec<u8> = Vec::new();
        let mut todo: Vec<Vec<u8>> = parts(key);
        let mut links = 0;
        let mut there = true;
        while let Some(part) = todo.pop() {
            if part == b".." {
                here = split(&here).0.to_vec();
                there = true;
                continue;
            }
            self.list(tree, &here)?;
            let next = if here.is_empty() { part } else { [&here[..], b"/", &part].concat() };
            let node = self.root.get(&next);
            there = node.is_some();
            match node {
                Some(Node::Symlink { target, .. }) if follow_last || !todo.is_empty() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::Refused("too many links".to_owned()));
                    }
                    if target.starts_with(b"/") {
                        here.clear();
                    }
                    todo.extend(parts(target));
                }
                _ => here = next,
            }
        }
        Ok(there.then_some(here))
    }

    /// Lists the folder at `path`, if it is one that nobody has listed.
    fn list(&mut self, tree: &dyn Tree, path: &[u8]) -> Result<()> {
        match self.root.folder_mut(path) {
            Some(folder) if folder.entries.is_none() => {
                self.dirty = true;
                scan::list(folder, tree, path)
            }
            _ => Ok(()),
        }
    }
}

/// Components that matter, last first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|&b| b == b'/').filter(|p| !p.is_empty() && p != b".");
    let mut parts: Vec<_> = parts.map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}

fn sum_of(digest: &Digest) -> Option<Sum> {
    let hex = digest.hex();
    let mut sum = [0; 32];
    if hex.len() != 64 || !digest.as_str().starts_with("sha256:") {
        return None;
    }
    for (byte, pair) in sum.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(sum)
}

/// A subtree is gone through twice in the same order: first to list folders and collect what has no digest, then to
/// store the digests and fold folders.
enum Filling<'a> {
    Collect { tree: &'a dyn Tree, missing: &'a mut Vec<Missing> },
    Store { sums: std::vec::IntoIter<Sum> },
}

impl Filling<'_> {
    fn one(&mut self, digest: &mut Option<Sum>, path: &[u8], is_dir: bool) {
        if digest.is_some() {
            return;
        }
        match self {
            Self::Collect { missing, .. } => missing.push(Missing { path: path.to_vec(), is_dir }),
            Self::Store { sums } => *digest = sums.next(),
        }
    }
}

fn visit(node: &mut Node, path: Vec<u8>, step: &mut Filling<'_>) -> Result<()> {
    match node {
        Node::Dir(folder) => return visit_folder(folder, path, step),
        Node::File { digest } | Node::Symlink { digest, .. } => step.one(digest, &path, false),
    }
    Ok(())
}

fn visit_folder(folder: &mut Folder, path: Vec<u8>, step: &mut Filling<'_>) -> Result<()> {
    if folder.digest.is_some() {
        return Ok(());
    }
    step.one(&mut folder.header, &path, true);
    if let Filling::Collect { tree, .. } = step {
        scan::list(folder, *tree, &path)?;
    }
    for (name, node) in folder.entries.iter_mut().flatten() {
        let below = if path.is_empty() { name.to_vec() } else { [&path[..], b"/", name].concat() };
        visit(node, below, step)?;
    }
    if matches!(step, Filling::Store { .. }) {
        folder.digest = fold(folder);
    }
    Ok(())
}

/// The digest of a folder from those of its header and entries, if all are known.
fn fold(folder: &Folder) -> Option<Sum> {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(spelled(folder.header?).as_str());
    for (name, node) in folder.entries.as_ref()? {
        hash.update([0]);
        hash.update(name);
        hash.update(spelled(node.digest()?).as_str());
    }
    Some(hash.finalize().into())
}

#[cfg(all(test, unix))]
mod tests;
