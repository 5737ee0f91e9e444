//! Wildcards, includes and excludes: which headers and files a checksum is made of.

use kiln_pattern::{Glob, MatchInfo, Matcher, has_wildcard};

use super::node::{Folder, Node};
use super::scan;
use super::{ChecksumOptions, Tree};
use crate::error::{Error, Result};
use crate::names::lossy;

/// Something that counts: the path as it was asked for and as it is, both clean; `""` is the root.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    /// As asked for, absolute.
    pub(super) path: Vec<u8>,
    /// Without links, relative.
    pub(super) real: Vec<u8>,
    pub(super) is_dir: bool,
    /// A link that stands for what it leads to.
    pub(super) follow: bool,
}

/// One walk through the part of the tree that `path` names.
pub(super) struct Selector<'a> {
    tree: &'a dyn Tree,
    /// Clean, absolute; empty for the root.
    path: &'a str,
    glob: Option<Glob>,
    include: Option<Matcher>,
    exclude: Option<Matcher>,
    follow_links: bool,
    /// The header of the folder that the path names does not count.
    without_top: bool,
    /// The last path that the wildcard matched.
    matched: Option<Vec<u8>>,
    parents: Vec<Parent>,
    selected: Vec<Selected>,
}

/// A folder on the way, which counts as soon as something in it does.
struct Parent {
    entry: Selected,
    included: bool,
    include: Option<MatchInfo>,
    exclude: Option<MatchInfo>,
}

impl<'a> Selector<'a> {
    pub(super) fn new(
        tree: &'a dyn Tree,
        path: &'a str,
        without_top: bool,
        options: &ChecksumOptions,
    ) -> Result<Self> {
        let matcher = |list, patterns: &[String]| {
            if patterns.is_empty() {
                return Ok(None);
            }
            Matcher::new(patterns).map(Some).map_err(|source| Error::Pattern { list, source })
        };
        let glob = (options.wildcard && !path.is_empty()).then(|| Glob::new(path)).transpose();
        Ok(Self {
            tree,
            path,
            glob: glob.map_err(|source| Error::Pattern { list: "wildcard", source })?,
            include: matcher("includepatterns", &options.include)?,
            exclude: matcher("excludepatterns", &options.exclude)?,
            follow_links: options.follow_links,
            without_top,
            matched: None,
            parents: Vec::new(),
            selected: Vec::new(),
        })
    }

    /// Walks from the entry that the plain part of the path leads to. `path` and `real` are the two names of it.
    pub(super) fn run(mut self, tree: &mut Folder, path: Vec<u8>, real: Vec<u8>) -> Result<Vec<Selected>> {
        if real.is_empty() {
            self.folder(tree, path, real)?;
            return Ok(self.selected);
        }
        let (parent, name) = crate::names::split(&real);
        let node = tree.folder_mut(parent).and_then(|f| f.entries.as_mut()).and_then(|e| e.get_mut(name));
        if let Some(node) = node {
            self.node(node, path, real)?;
        }
        Ok(self.selected)
    }

    fn node(&mut self, node: &mut Node, path: Vec<u8>, real: Vec<u8>) -> Result<()> {
        match node {
            Node::Dir(folder) => self.folder(folder, path, real),
            Node::File { .. } | Node::Symlink { .. } => {
                let is_link = matches!(node, Node::Symlink { .. });
                self.entry(path, real, false, is_link);
                Ok(())
            }
        }
    }

    fn folder(&mut self, folder: &mut Folder, path: Vec<u8>, real: Vec<u8>) -> Result<()> {
        let top = self.without_top && path == self.path.as_bytes();
        if !top {
            self.entry(path.clone(), real.clone(), true, false);
        }
        if !self.may_hold_matches(&path) {
            return Ok(());
        }
        scan::list(folder, self.tree, &real)?;
        for (name, node) in folder.entries.iter_mut().flatten() {
            let below = [&path[..], b"/", name].concat();
            let real = if real.is_empty() { name.to_vec() } else { [&real[..], b"/", name].concat() };
            self.node(node, below, real)?;
        }
        Ok(())
    }

    /// Whether anything below `path` can still be matched by the wildcard. Classes can match a `/`, so they may.
    fn may_hold_matches(&self, path: &[u8]) -> bool {
        let components = |p: &[u8]| p.iter().filter(|&&b| b == b'/').count();
        self.glob.is_none()
            || self.is_in_matched(path)
            || self.matched.as_deref() == Some(path)
            || self.path.contains('[')
            || components(path) < components(self.path.as_bytes())
    }

    fn is_in_matched(&self, path: &[u8]) -> bool {
        let rest = |m: &Vec<u8>| path.strip_prefix(&m[..]).is_some_and(|rest| rest.starts_with(b"/"));
        self.matched.as_ref().is_some_and(rest)
    }

    /// Decides on one header or file.
    fn entry(&mut self, path: Vec<u8>, real: Vec<u8>, is_dir: bool, is_link: bool) {
        let inside = |dir: &[u8]| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"));
        while self.parents.last().is_some_and(|p| !inside(&p.entry.path)) {
            self.parents.pop();
        }
        if let Some(glob) = self.glob.as_ref().filter(|_| !self.is_in_matched(&path)) {
            if !glob.matches(&lossy(&path)) {
                return;
            }
            self.matched = Some(path.clone());
        }
        let base = match &self.glob {
            Some(_) => self.matched.as_deref().unwrap_or_default(),
            None => self.path.as_bytes(),
        };
        let candidate = path.strip_prefix(base).unwrap_or(&path);
        let candidate = lossy(candidate.strip_prefix(b"/").unwrap_or(candidate)).into_owned();
        let (wanted, include, exclude) = self.matches(&candidate);
        let follow = is_link && self.follow_links && self.parents.is_empty();
        let entry = Selected { path, real, is_dir, follow };
        if wanted {
            for parent in self.parents.iter_mut().filter(|p| !p.included) {
                parent.included = true;
                self.selected.push(parent.entry.clone());
            }
            self.selected.push(entry.clone());
        }
        if is_dir {
            self.parents.push(Parent { entry, included: wanted, include, exclude });
        }
    }

    fn matches(&self, candidate: &str) -> (bool, Option<MatchInfo>, Option<MatchInfo>) {
        let parent = self.parents.last();
        let mut include = None;
        if let Some(matcher) = &self.include {
            let (yes, info) = matcher.matches_in(candidate, parent.and_then(|p| p.include.as_ref()));
            include = Some(info);
            if !yes {
                return (false, include, None);
            }
        }
        let Some(matcher) = &self.exclude else { return (true, include, None) };
        let (yes, info) = matcher.matches_in(candidate, parent.and_then(|p| p.exclude.as_ref()));
        (!yes, include, Some(info))
    }
}

/// The part of a clean, absolute path before its first wildcard, and whether there is one.
pub(super) fn plain_prefix(path: &str) -> (&str, bool) {
    if !has_wildcard(path) {
        return (path, false);
    }
    let (plain, _) = kiln_pattern::split_wildcard(path);
    (if plain == "/" { "" } else { plain }, true)
}
