//! Handles of the folders that one thread of a receiver works in.

use std::ffi::OsString;
use std::sync::Arc;

use crate::Root;
use crate::dir::Dir;
use crate::error::{Context as _, Result};
use crate::names::{is_within, os_name, os_path};

/// The folder used last and those above it, opened one name at a time and never through a link.
#[derive(Debug)]
pub(crate) struct Folders {
    stack: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    path: Vec<u8>,
    folder: Arc<Folder>,
}

/// An open folder and what is known of it.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) dir: Dir,
    /// Owner and group that a new file gets here without being given any.
    pub(crate) owner: (u32, u32),
}

impl Folders {
    pub(crate) fn new(root: &Root) -> Result<Self> {
        let dir = root.dir().try_clone().at("open", "/")?;
        let owner = dir.owner_of_new().at("stat", "/")?;
        Ok(Self { stack: vec![Open { path: Vec::new(), folder: Arc::new(Folder { dir, owner }) }] })
    }

    /// The folder at a clean, relative path.
    pub(crate) fn get(&mut self, path: &[u8]) -> Result<Arc<Folder>> {
        while self.stack.last().is_some_and(|open| !is_within(path, &open.path)) {
            self.stack.pop();
        }
        loop {
            // The root is within everything.
            let Some(top) = self.stack.last() else {
                return Err(crate::Error::Refused("the root of a tree has gone".to_owned()));
            };
            let rest = path.get(top.path.len()..).unwrap_or_default();
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            let Some(name) = rest.split(|&b| b == b'/').next().filter(|n| !n.is_empty()) else {
                return Ok(top.folder.clone());
            };
            let at = || os_path(path).unwrap_or_default();
            let name: OsString = os_name(name).at("open", at())?;
            let dir = top.folder.dir.open_dir(&name).at("open", at())?;
            let owner = dir.owner_of_new().at("stat", at())?;
            let end = path.len() - rest.len() + crate::names::name_bytes(&name).len();
            self.stack.push(Open { path: path[..end].to_vec(), folder: Arc::new(Folder { dir, owner }) });
        }
    }

    /// The folder at `path` is about to be removed or replaced.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        if let Some(at) =
            self.stack.iter().position(|open| !open.path.is_empty() && is_within(&open.path, path))
        {
            self.stack.truncate(at);
        }
    }
}
