//! From the mounts of an exec op to those of a container, and from what they became to the op's outputs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_executor::{Mount, MountSource, RootSpec, TmpfsSpec, Tree};
use kiln_fstree::Root;
use kiln_proto::pb;
use kiln_session::Group;
use kiln_store::SnapshotId;
use kiln_worker::{Announcement, CacheMount, ImmutableRef, MutableRef, RefOptions, Unpacked};

use super::caches::Caches;
use super::filling::Filling;
use super::secrets::{self, AgentSocket};
use crate::{Host, OpError, Output};

/// Files that every container has mounted over those of its tree.
const NAME_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// What is to be mounted, and for whom.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) mounts: &'a [pb::Mount],
    /// What relative destinations count from.
    pub(crate) cwd: &'a str,
    /// Who uses them, as people are told: `exec sh -c …`.
    pub(crate) user: &'a str,
    /// What cache mounts that are not here are filled from.
    pub(crate) filling: Option<&'a Filling>,
}

/// Mounts that are ready to be used; none by default.
#[derive(Default)]
pub(crate) struct Prepared {
    root: Option<Part>,
    readonly_root: bool,
    /// Sorted by destination, so that parents come before what is mounted in them.
    parts: Vec<Part>,
    /// Closed when the step is over.
    _agents: Vec<AgentSocket>,
}

/// The mounts of a step while it runs.
pub(super) struct Standing {
    prepared: Mutex<Prepared>,
    /// Goes after what it is about.
    _announcement: Announcement,
}

impl Standing {
    pub(super) fn new(prepared: Prepared, announcement: Announcement) -> Self {
        Self { prepared: Mutex::new(prepared), _announcement: announcement }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Prepared> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes them, as nothing runs any more.
    pub(super) fn take(&self) -> Prepared {
        std::mem::take(&mut *self.lock())
    }
}

/// One mount.
struct Part {
    /// Its place among the mounts that were asked for.
    at: usize,
    dest: String,
    selector: String,
    readonly: bool,
    /// The output that its content becomes.
    output: Option<usize>,
    source: Source,
}

enum Source {
    /// A tree that is only read.
    Read(Unpacked),
    /// A new tree on top of an input.
    Write(MutableRef),
    /// A cache mount, with the input that is its output in its place.
    Cache(CacheMount, Option<ImmutableRef>),
    /// What is no tree.
    Other(MountSource),
}

impl Prepared {
    /// Prepares the mounts. `inputs` are those that the mounts name, with their files.
    pub(crate) async fn new(
        host: &Host,
        sessions: &Group,
        given: Given<'_>,
        inputs: &[Option<Unpacked>],
    ) -> Result<Self, OpError> {
        let mut prepared = Self::default();
        let caches = Caches::take(host, &given, inputs).await?;
        for (at, mount) in given.mounts.iter().enumerate() {
            let is_root = mount.dest == kiln_llb::ROOT_MOUNT;
            if is_root && mount.mount_type() != pb::MountType::Bind {
                let problem =
                    format!("the root cannot be a mount of type {}", mount.mount_type().as_str_name());
                return Err(OpError::Invalid(problem));
            }
            let one = One { host, sessions, mount, user: given.user, caches: &caches };
            let input = input_of(mount, inputs)?;
            let Some(source) = one.source(input, &mut prepared._agents).await? else { continue };
            // Secrets and agents say 0 where they mean none.
            let has_output = matches!(mount.mount_type(), pb::MountType::Bind | pb::MountType::Cache);
            let output = usize::try_from(mount.output).ok().filter(|_| has_output);
            let dest = if mount.dest.starts_with('/') {
                mount.dest.clone()
            } else {
                format!("/{}/{}", given.cwd.trim_matches('/'), mount.dest)
            };
            // A secret is the client's: a step that writes to it would only believe that it did.
            let readonly = mount.readonly || mount.mount_type() == pb::MountType::Secret;
            let part = Part { at, dest, selector: mount.selector.clone(), readonly, output, source };
            if is_root {
                prepared.readonly_root = mount.readonly;
                prepared.root = Some(part);
            } else {
                prepared.parts.push(part);
            }
        }
        prepared.parts.sort_by(|a, b| a.dest.cmp(&b.dest));
        Ok(prepared)
    }

    /// Adds what devices want mounted, after what the op itself wants at the same place.
    pub(super) fn add(&mut self, mounts: Vec<Mount>) {
        for Mount { dest, source, readonly } in mounts {
            let source = Source::Other(source);
            let selector = String::new();
            self.parts.push(Part { at: usize::MAX, dest, selector, readonly, output: None, source });
        }
        self.parts.sort_by(|a, b| a.dest.cmp(&b.dest));
    }

    /// What the container can make grow.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = &SnapshotId> {
        self.root.iter().chain(&self.parts).filter_map(|part| match &part.source {
            Source::Write(mutable) => Some(mutable.snapshot()),
            Source::Cache(cache, _) => Some(cache.snapshot()),
            Source::Read(_) | Source::Other(_) => None,
        })
    }

    /// The container's root and mounts.
    pub(crate) fn specs(&mut self) -> Result<(RootSpec, Vec<Mount>), OpError> {
        let root = self.root.as_mut().ok_or_else(|| OpError::Invalid("nothing is mounted at /".into()))?;
        let tree =
            root.source.tree()?.ok_or_else(|| OpError::Invalid("the mount at / must be a tree".into()))?;
        let root = RootSpec { tree, readonly: self.readonly_root };
        let mut mounts = Vec::with_capacity(self.parts.len());
        for part in &mut self.parts {
            let source = match part.source.tree()? {
                Some(tree) => MountSource::Tree { tree, selector: part.selector.clone() },
                None => match &part.source {
                    Source::Other(other) => other.clone(),
                    _ => continue,
                },
            };
            mounts.push(Mount { dest: part.dest.clone(), source, readonly: part.readonly });
        }
        Ok((root, mounts))
    }

    /// What the mounts have become after a failure, in the order in which they were asked for. `inputs` stands for those that
    /// cannot be told. Blocks.
    pub(super) fn salvage(self, inputs: &[Option<Output>]) -> Vec<Option<Output>> {
        let mut mounts = inputs.to_vec();
        for part in self.root.into_iter().chain(self.parts) {
            let Source::Write(mutable) = part.source else { continue };
            match (mutable.commit(), mounts.get_mut(part.at)) {
                (Ok(tree), Some(slot)) => *slot = Some(tree.into()),
                (Ok(_), None) => {}
                (Err(error), _) => tracing::warn!(%error, dest = part.dest, "a failed step's files are lost"),
            }
        }
        mounts
    }

    /// A view of the mount that was asked for at this place, as it is now; `None` where there is no tree. What is written
    /// meanwhile may show in it or not. Blocks.
    pub(crate) fn view(&mut self, at: usize) -> Result<Option<Root>, OpError> {
        let part = self.root.iter_mut().chain(&mut self.parts).find(|part| part.at == at);
        let Some(part) = part else { return Ok(None) };
        let spec = match &mut part.source {
            Source::Read(tree) => tree.mount_spec()?,
            Source::Write(mutable) => mutable.mount_spec()?,
            Source::Cache(cache, _) => cache.mount_spec(),
            Source::Other(_) => return Ok(None),
        };
        let root = spec.read_only().open().map_err(kiln_worker::Error::from)?;
        let selector = part.selector.trim_matches('/');
        if selector.is_empty() {
            return Ok(Some(root));
        }
        let inside = root.subtree(selector);
        inside.map(Some).map_err(|error| OpError::Invalid(format!("mount {}: {error}", part.dest)))
    }

    /// The op's outputs. Blocks.
    pub(super) fn commit(self) -> Result<Vec<Output>, OpError> {
        if let Some(Part { source: Source::Write(root), .. }) = &self.root {
            let given = self.parts.iter().map(|part| part.dest.as_str());
            root.forget_mount_points(given.chain(NAME_FILES))?;
        }
        let mut outputs: Vec<(usize, Output)> = Vec::new();
        for part in self.root.into_iter().chain(self.parts) {
            let Some(at) = part.output else { continue };
            let tree = match part.source {
                Source::Write(mutable) => Some(mutable.commit()?),
                Source::Read(tree) => Some(tree.as_ref().clone()),
                // A cache mount is no output, only a place for the input that it began with.
                Source::Cache(_, None) => continue,
                Source::Cache(_, below) => below,
                Source::Other(_) => None,
            };
            outputs.push((at, Output(tree)));
        }
        outputs.sort_by_key(|(at, _)| *at);
        if let Some((at, expected)) =
            outputs.iter().map(|(at, _)| *at).zip(0..).find(|(at, expected)| at != expected)
        {
            return Err(OpError::Invalid(format!(
                "the mounts of an exec op make output {at}, but none makes {expected}"
            )));
        }
        Ok(outputs.into_iter().map(|(_, output)| output).collect())
    }
}

impl Source {
    fn tree(&mut self) -> Result<Option<Tree>, OpError> {
        Ok(match self {
            Self::Read(tree) => Some(tree.mount_spec()?.into()),
            Self::Write(mutable) => Some(mutable.mount_spec()?.into()),
            Self::Cache(cache, _) => Some(cache.mount_spec().into()),
            Self::Other(_) => None,
        })
    }
}

/// The input that a mount begins with; the empty tree where it has none.
pub(super) fn input_of(mount: &pb::Mount, inputs: &[Option<Unpacked>]) -> Result<Option<Unpacked>, OpError> {
    let Ok(at) = usize::try_from(mount.input) else { return Ok(None) };
    let input = inputs.get(at).cloned();
    input.ok_or_else(|| OpError::Invalid(format!("mount {} has no input {at}", mount.dest)))
}

/// One mount that is being prepared.
struct One<'a> {
    host: &'a Host,
    sessions: &'a Group,
    mount: &'a pb::Mount,
    user: &'a str,
    caches: &'a Caches,
}

impl One<'_> {
    async fn source(
        &self,
        input: Option<Unpacked>,
        agents: &mut Vec<AgentSocket>,
    ) -> Result<Option<Source>, OpError> {
        let mount = self.mount;
        Ok(Some(match mount.mount_type() {
            pb::MountType::Bind => self.bind(input).await?,
            pb::MountType::Cache => {
                let output = input.as_ref().map(|tree| tree.as_ref().clone());
                Source::Cache(self.caches.get(mount, input.as_ref())?, output)
            }
            pb::MountType::Tmpfs => {
                let size = mount
                    .tmpfs_opt
                    .as_ref()
                    .and_then(|t| u64::try_from(t.size).ok())
                    .filter(|size| *size > 0);
                Source::Other(MountSource::Tmpfs(TmpfsSpec { size, ..TmpfsSpec::default() }))
            }
            pb::MountType::Secret => match secrets::mount(self.sessions, mount).await? {
                Some(source) => Source::Other(source),
                None => return Ok(None),
            },
            pb::MountType::Ssh => match secrets::agent(self.sessions, mount).await? {
                Some(socket) => {
                    let source = socket.source();
                    agents.push(socket);
                    Source::Other(source)
                }
                None => return Ok(None),
            },
        }))
    }

    /// A tree. What is written to it is an output, or forgotten.
    async fn bind(&self, input: Option<Unpacked>) -> Result<Source, OpError> {
        let mount = self.mount;
        let (is_root, is_output) =
            (mount.dest == kiln_llb::ROOT_MOUNT, mount.output != kiln_llb::SKIP_OUTPUT);
        match input {
            // What cannot change is its own output. The root needs somewhere to make mount points in, though.
            Some(tree) if mount.readonly && !is_root => Ok(Source::Read(tree)),
            None if is_root && !is_output && !mount.readonly => {
                Err(OpError::Invalid(format!("mount {} has no input", mount.dest)))
            }
            below => self.writable(below).await,
        }
    }

    async fn writable(&self, below: Option<Unpacked>) -> Result<Source, OpError> {
        let description = format!("mount {} from {}", self.mount.dest, self.user);
        let worker = self.host.worker.clone();
        let create = move || worker.create(below.as_ref(), RefOptions::described(description));
        Ok(Source::Write(tokio::task::spawn_blocking(create).await??))
    }
}
