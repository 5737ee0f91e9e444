//! The zygote of one kind of containers, and first processes that it has made ahead.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::wire::{HOST, NODEV, SANDBOX};
use super::zygote::{Born, Options, Zygote};
use super::{Shared, cgroup};
use crate::{Error, Result};

/// How long a prepared process waits for a use, and a zygote without containers for a container.
const PATIENCE: Duration = Duration::from_secs(5);

/// A zygote and what its containers need to know of it.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    pub(super) zygote: Zygote,
    /// No device rules: file systems of its containers must keep devices away.
    pub(super) nodev: bool,
    /// Nobody used it when it was last looked at.
    idle: bool,
}

/// What a zygote's children become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Confined containers.
    Sandbox,
    /// Unconfined ones.
    Insecure,
    /// OCI runtimes among the host's files.
    Host,
}

#[derive(Debug)]
pub(super) struct Pool {
    kind: Kind,
    parent: tokio::sync::Mutex<Option<Parent>>,
    prepared: Mutex<Option<(Instant, Parent, Born)>>,
}

impl Pool {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, parent: tokio::sync::Mutex::default(), prepared: Mutex::default() }
    }

    /// A process that waits for its setup: one prepared, or a new one. One in a cgroup of its own is always new.
    pub(super) async fn take(&self, shared: &Arc<Shared>, cgroup: Option<OwnedFd>) -> Result<(Parent, Born)> {
        let prepared = if cgroup.is_none() { self.prepared().take() } else { None };
        if let Some((_, parent, born)) = prepared
            && !parent.zygote.is_gone()
        {
            return Ok((parent, born));
        }
        let parent = self.parent(shared).await?;
        let born = parent.zygote.start(cgroup).await;
        let born = born.map_err(|source| Error::System { step: "make a container's process", source })?;
        Ok((parent, born))
    }

    /// Makes a process ahead, if there is none.
    pub(super) async fn prepare(&self, shared: &Arc<Shared>) {
        if self.prepared().is_some() {
            return;
        }
        let Ok(parent) = self.parent(shared).await else { return };
        let Ok(born) = parent.zygote.start(None).await else { return };
        let since = Instant::now();
        *self.prepared() = Some((since, parent, born));
        let shared = Arc::downgrade(shared);
        let kind = self.kind;
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            if let Some(shared) = shared.upgrade() {
                shared.pool_of(kind).prepared().take_if(|prepared| prepared.0 == since);
            }
        });
    }

    pub(super) async fn shutdown(&self) {
        let parent = self.parent.lock().await.take();
        self.prepared().take();
        if let Some(parent) = parent {
            parent.zygote.shutdown().await;
        }
    }

    /// The zygote; a new one if there is none.
    async fn parent(&self, shared: &Arc<Shared>) -> Result<Parent> {
        let mut slot = self.parent.lock().await;
        if let Some(parent) = slot.as_ref().filter(|parent| !parent.zygote.is_gone()) {
            return Ok(parent.clone());
        }
        let kind = self.kind;
        let spawning = {
            let shared = shared.clone();
            tokio::task::spawn_blocking(move || spawn(&shared, kind))
        };
        let parent = slot.insert(spawning.await.map_err(|_| Error::Lost)??).clone();
        let (shared, zygote) = (Arc::downgrade(shared), parent.zygote.downgrade());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PATIENCE).await;
                let Some(shared) = shared.upgrade() else { return };
                if zygote.is_gone() || shared.pool_of(kind).dismiss_idle().await {
                    return;
                }
            }
        });
        Ok(parent)
    }

    /// Ends the zygote if nobody has used it for a while.
    async fn dismiss_idle(&self) -> bool {
        let mut slot = self.parent.lock().await;
        match slot.as_mut() {
            // Whoever uses it, a container or a start under way, has a copy.
            Some(parent) if parent.zygote.copies() > 1 => parent.idle = false,
            Some(parent) if !parent.idle => parent.idle = true,
            _ => {
                *slot = None;
                return true;
            }
        }
        false
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Parent, Born)>> {
        // What a panicking thread left is still a process that waits, or none.
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(shared: &Shared, kind: Kind) -> Result<Parent> {
    cgroup::sweep(&shared.layout);
    let sandboxed = kind == Kind::Sandbox;
    let cgroup = if sandboxed { cgroup::Sandbox::new(&shared.layout) } else { None };
    let nodev = sandboxed && cgroup.is_none();
    let flags = match kind {
        Kind::Sandbox => SANDBOX | if nodev { NODEV } else { 0 },
        Kind::Insecure => 0,
        Kind::Host => HOST,
    };
    let options = Options { flags, cgroup, oom_score_adj: shared.config.oom_score_adj };
    let zygote = Zygote::spawn(&shared.executable, options)
        .map_err(|source| Error::System { step: "start the runtime helper", source })?;
    Ok(Parent { zygote, nodev, idle: false })
}
