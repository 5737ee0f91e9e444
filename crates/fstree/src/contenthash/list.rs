//! What a checksum is made of, file by file: for whoever wants to know which file made two checksums differ.

use kiln_pattern::clean;

use super::node::{Folder, Node, Sum};
use super::select::Selected;
use super::{ChecksumOptions, HashCache, Tree};
use crate::Result;
use crate::names::{lossy, split};

/// One file, link or folder that takes part in a checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path from the root of the tree, as it was asked for; that of a folder ends with `/`.
    pub path: String,
    /// The hash of its header and bytes; of a folder, of its header alone.
    pub sum: [u8; 32],
}

/// What takes part in a checksum, in order of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Listed>,
    /// Whether there were more than were asked for.
    pub truncated: bool,
}

impl Listing {
    fn push(&mut self, path: &[u8], is_dir: bool, sum: Option<Sum>, limit: usize) {
        self.truncated |= self.entries.len() >= limit;
        let (Some(sum), false) = (sum, self.truncated) else { return };
        let path = lossy(path.strip_prefix(b"/").unwrap_or(path));
        let path = if is_dir { format!("{path}/") } else { path.into_owned() };
        self.entries.push(Listed { path, sum });
    }
}

impl HashCache {
    /// What the [checksum](Self::checksum) of `path` is made of, the first `limit` entries. It should have been computed before:
    /// what has no hash by now is left out, so that no file is read.
    ///
    /// # Errors
    /// As [`HashCache::checksum`].
    pub fn listing(
        &mut self,
        tree: &dyn Tree,
        path: &str,
        options: &ChecksumOptions,
        limit: usize,
    ) -> Result<Listing> {
        let asked = clean(&format!("/{path}"));
        let key = if asked == "/" { "" } else { &asked };
        let mut listing = Listing::default();
        if options.wildcard || !options.include.is_empty() || !options.exclude.is_empty() {
            for entry in self.select(tree, key, path.ends_with('/'), options)? {
                listing.push(&entry.path, entry.is_dir, self.sum_of(&entry), limit);
            }
        } else if let Some(real) = self.resolve(tree, key.as_bytes(), options.follow_links)? {
            if real.is_empty() {
                below(&self.root, key.as_bytes(), limit, &mut listing);
            } else if let Some(node) = self.root.get(&real) {
                visit(node, key.as_bytes(), limit, &mut listing);
            }
        }
        // Folders come before what is in them, by the names of both; with `/` at the end the order is one of texts.
        listing.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }

    fn sum_of(&self, entry: &Selected) -> Option<Sum> {
        if entry.real.is_empty() {
            return self.root.header;
        }
        match self.root.get(&entry.real)? {
            Node::Dir(folder) => folder.header,
            node => node.digest(),
        }
    }
}

fn visit(node: &Node, path: &[u8], limit: usize, listing: &mut Listing) {
    match node {
        Node::Dir(folder) => below(folder, path, limit, listing),
        Node::File { digest } | Node::Symlink { digest, .. } => listing.push(path, false, *digest, limit),
    }
}

fn below(folder: &Folder, path: &[u8], limit: usize, listing: &mut Listing) {
    // The root of a tree has no name to be shown by.
    if !split(path).1.is_empty() {
        listing.push(path, true, folder.header, limit);
    }
    for (name, node) in folder.entries.iter().flatten() {
        if listing.truncated {
            return;
        }
        visit(node, &[path, b"/", name].concat(), limit, listing);
    }
}
