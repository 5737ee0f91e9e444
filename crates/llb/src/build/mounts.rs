//! What programs see beside their root: other trees, caches, memory, secrets, agents.

use std::borrow::Cow;

use kiln_proto::pb;

use super::State;
use crate::{EMPTY, caps};

/// A mount of a [`Run`].
#[derive(Debug, Clone)]
pub struct Mount {
    pub(super) source: Option<State>,
    pub(super) spec: MountSpec,
}

/// A mount without its source's state.
#[derive(Debug, Clone)]
pub(super) struct MountSpec {
    pub(super) target: Cow<'static, str>,
    /// Position among the node's inputs.
    pub(super) input: Option<usize>,
    pub(super) read_only: bool,
    pub(super) selector: String,
    pub(super) cache: Option<pb::CacheOpt>,
    pub(super) tmpfs: Option<pb::TmpfsOpt>,
    pub(super) no_output: bool,
    pub(super) content_cache: pb::MountContentCache,
}

impl MountSpec {
    pub(super) fn new(target: Cow<'static, str>) -> Self {
        Self {
            target,
            input: None,
            read_only: false,
            selector: String::new(),
            cache: None,
            tmpfs: None,
            no_output: false,
            content_cache: pb::MountContentCache::Default,
        }
    }

    pub(super) fn has_output(&self) -> bool {
        !(self.no_output || self.read_only || self.cache.is_some() || self.tmpfs.is_some())
    }
}

impl Mount {
    /// A file system; writable, and what is written is a result of the run, unless said otherwise.
    pub fn bind(target: impl Into<String>, source: &State) -> Self {
        Self { source: Some(source.clone()), spec: MountSpec::new(Cow::Owned(target.into())) }
    }

    /// A folder that lasts from build to build, shared with whoever uses the id at the same time.
    pub fn cache(target: impl Into<String>, id: impl Into<String>) -> Self {
        let mut spec = MountSpec::new(Cow::Owned(target.into()));
        spec.cache = Some(pb::CacheOpt { id: id.into(), sharing: pb::CacheSharingOpt::Shared as i32 });
        Self { source: None, spec }
    }

    /// A folder in memory of at most `size` bytes; 0 is the system's default.
    pub fn tmpfs(target: impl Into<String>, size: i64) -> Self {
        let mut spec = MountSpec::new(Cow::Owned(target.into()));
        spec.tmpfs = Some(pb::TmpfsOpt { size });
        Self { source: None, spec }
    }

    /// It can't be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.spec.read_only = true;
        self
    }

    /// What is written is thrown away.
    #[must_use]
    pub fn no_output(mut self) -> Self {
        self.spec.no_output = true;
        self
    }

    /// Mounts a path of the source rather than its root.
    #[must_use]
    pub fn selector(mut self, path: impl Into<String>) -> Self {
        self.spec.selector = path.into();
        self
    }

    /// A cache begins as a copy of this.
    #[must_use]
    pub fn from(mut self, source: &State) -> Self {
        self.source = Some(source.clone());
        self
    }

    /// Whether several runs use a cache at once.
    #[must_use]
    pub fn sharing(mut self, sharing: pb::CacheSharingOpt) -> Self {
        if let Some(cache) = &mut self.spec.cache {
            cache.sharing = sharing as i32;
        }
        self
    }

    /// Whether the content of the source counts for the cache key rather than how it was made.
    #[must_use]
    pub fn content_cache(mut self, mode: pb::MountContentCache) -> Self {
        self.spec.content_cache = mode;
        self
    }
}

/// A secret of the client, as a file or a variable or both.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its id on the client.
    pub id: String,
    /// The file to make of it.
    pub target: Option<String>,
    /// The variable to make of it.
    pub env: Option<String>,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Mode of the file.
    pub mode: u32,
    /// Run without it if the client has none.
    pub optional: bool,
}

impl Secret {
    /// A secret as a file that root alone may read.
    pub fn file(id: impl Into<String>, target: impl Into<String>) -> Self {
        let target = Some(target.into());
        Self { id: id.into(), target, env: None, uid: 0, gid: 0, mode: 0o400, optional: false }
    }

    /// A secret as a variable.
    pub fn env(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            target: None,
            env: Some(name.into()),
            uid: 0,
            gid: 0,
            mode: 0o400,
            optional: false,
        }
    }
}

/// A forwarded ssh agent.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// Its id on the client.
    pub id: String,
    /// The socket's path; `/run/buildkit/ssh_agent.N` when empty.
    pub target: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Mode of the socket.
    pub mode: u32,
    /// Run without it if the client has none.
    pub optional: bool,
}

impl Ssh {
    /// An agent at the usual path, for root alone.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), target: String::new(), uid: 0, gid: 0, mode: 0o600, optional: false }
    }
}

impl MountSpec {
    /// Notes what the daemon must be capable of.
    pub(super) fn note_caps(&self, caps: &mut Vec<&'static str>) {
        if !self.selector.is_empty() {
            caps.push(caps::EXEC_MOUNT_SELECTOR);
        }
        if self.cache.is_some() {
            caps.push(caps::EXEC_MOUNT_CACHE);
            caps.push(caps::EXEC_MOUNT_CACHE_SHARING);
        } else if let Some(tmpfs) = &self.tmpfs {
            caps.push(caps::EXEC_MOUNT_TMPFS);
            if tmpfs.size > 0 {
                caps.push(caps::EXEC_MOUNT_TMPFS_SIZE);
            }
        } else if self.input.is_some() {
            caps.push(caps::EXEC_MOUNT_BIND);
        }
        if self.content_cache != pb::MountContentCache::Default {
            caps.push(caps::EXEC_MOUNT_CONTENT_CACHE);
        }
    }
}

impl Secret {
    /// The variable of a secret, if it is one.
    pub(super) fn to_env(&self) -> Option<pb::SecretEnv> {
        let name = self.env.clone()?;
        Some(pb::SecretEnv { id: self.id.clone(), name, optional: self.optional })
    }

    /// The file of a secret, if it is one. It names output 0, not "none": everybody's digests have it so.
    pub(super) fn to_mount(&self) -> Option<pb::Mount> {
        Some(pb::Mount {
            input: EMPTY,
            dest: self.target.clone()?,
            mount_type: pb::MountType::Secret as i32,
            secret_opt: Some(pb::SecretOpt {
                id: self.id.clone(),
                uid: self.uid,
                gid: self.gid,
                mode: self.mode,
                optional: self.optional,
            }),
            ..pb::Mount::default()
        })
    }
}

impl Ssh {
    /// The socket of the agent that is at `place` of a run's list.
    pub(super) fn path(&self, place: usize) -> Cow<'_, str> {
        match self.target.as_str() {
            "" => Cow::Owned(format!("/run/buildkit/ssh_agent.{place}")),
            target => Cow::Borrowed(target),
        }
    }

    pub(super) fn to_mount(&self, place: usize) -> pb::Mount {
        pb::Mount {
            input: EMPTY,
            dest: self.path(place).into_owned(),
            mount_type: pb::MountType::Ssh as i32,
            ssh_opt: Some(pb::SshOpt {
                id: self.id.clone(),
                uid: self.uid,
                gid: self.gid,
                mode: self.mode,
                optional: self.optional,
            }),
            ..pb::Mount::default()
        }
    }
}
