//! Putting merges and differences together on disk.
//!
//! With overlay both are nothing but a stack of layers that are there already, unless
//!
//! - a layer above the first parent has an opaque folder: it would hide what the merge has below, while it must hide only
//!   what its own ref had there. Such a layer is written anew with a whiteout for each name;
//! - the lower side of a difference is not what the upper one stands on: then the trees are compared.
//!
//! With native snapshots a copy of the first parent takes all changes of the others.

use std::collections::HashSet;
use std::sync::Arc;

use kiln_fstree::Root;
use kiln_layer::{ApplyOptions, Compression, DiffOptions, Settings, diff};
use kiln_store::{Active, SnapshotId, SnapshotInfo, Snapshotter, SnapshotterKind, Stack};

use crate::layers::{change_of, flatten};
use crate::node::Node;
use crate::record::lease;
use crate::{Error, Parents, Worker};

/// A layer to be put on something: what it changes, and in what.
pub(crate) struct Change {
    pub(crate) lower: Stack,
    pub(crate) upper: Stack,
}

/// Makes the stack of a merge or difference whose parents are unpacked, and records it.
pub(crate) async fn assemble(node: &Arc<Node>) -> Result<(), Error> {
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || {
        let snapshots = &**node.worker.store.snapshots();
        let (stack, made) = match snapshots.kind() {
            SnapshotterKind::Overlay => overlay(&node, snapshots)?,
            SnapshotterKind::Native => native(&node, snapshots)?,
        };
        node.update(
            |record| record.stack = Some(stack),
            |tx| {
                let info = SnapshotInfo { whiteouts: true, linked: false };
                made.iter()
                    .try_for_each(|active| Ok(tx.add_snapshot(active.id(), &info, &lease(&node.id))?))
            },
        )?;
        made.into_iter().for_each(|active| drop(active.keep()));
        Ok(())
    })
    .await?
}

fn overlay(node: &Node, snapshots: &dyn Snapshotter) -> Result<(Stack, Vec<Active>), Error> {
    let mut made = Vec::new();
    let mut stack = Stack::default();
    match &node.parents {
        Parents::Merge(parents) => {
            for (n, parent) in parents.iter().enumerate() {
                let mut above = Worker::stack_of(parent)?;
                if n > 0 {
                    make_explicit(node, snapshots, &mut above, &mut made)?;
                }
                stack = above.over(&stack);
            }
            // The same layer twice is the same as once, at its upper place; and the kernel refuses it.
            let mut seen = HashSet::new();
            stack.0.retain(|id| seen.insert(id.clone()));
        }
        Parents::Diff { lower, upper } => {
            let of =
                |node: &Option<Arc<Node>>| node.as_deref().map_or(Ok(Stack::default()), Worker::stack_of);
            let (lower, upper) = (of(lower)?, of(upper)?);
            if let Some(above) = upper.0.strip_suffix(lower.0.as_slice()) {
                // Opaque folders hide nothing here, but would when this is merged: they become explicit now, while it
                // is known what they stand on.
                let mut whole = Stack(above.to_vec()).over(&lower);
                make_explicit(node, snapshots, &mut whole, &mut made)?;
                whole.0.truncate(above.len());
                stack = whole;
            } else {
                let active = snapshots.prepare(&Stack::default())?;
                transfer(&node.id, snapshots, &Change { lower, upper }, active.id(), true)?;
                stack = Stack::single(active.id().clone());
                made.push(active);
            }
        }
        Parents::None | Parents::Layer(_) => return Err(Error::Kind(node.id.clone(), "a layer")),
    }
    Ok((stack, made))
}

/// Replaces the layers of `stack` that have opaque folders.
fn make_explicit(
    node: &Node,
    snapshots: &dyn Snapshotter,
    stack: &mut Stack,
    made: &mut Vec<Active>,
) -> Result<(), Error> {
    for n in 0..stack.0.len() {
        let id = stack.0[n].clone();
        let info = node.worker.store.change(|tx| tx.snapshot(&id))?;
        let below = Stack(stack.0[n + 1..].to_vec());
        // The lowest layer has nothing to hide.
        if below.0.is_empty() || info.is_none_or(|info| !info.whiteouts) {
            continue;
        }
        if has_opaque_folder(Root::open(snapshots.path(&id))?.dir())? {
            let active = snapshots.prepare(&Stack::default())?;
            let upper = Stack::single(id).over(&below);
            transfer(&node.id, snapshots, &Change { lower: below, upper }, active.id(), true)?;
            stack.0[n] = active.id().clone();
            made.push(active);
        }
    }
    Ok(())
}

/// Whether a folder in the layer hides what is below it.
fn has_opaque_folder(dir: &kiln_fstree::Dir) -> Result<bool, Error> {
    let io = |source| kiln_fstree::Error::Io { op: "list", path: "/".into(), source };
    let mut todo = vec![dir.try_clone().map_err(io)?];
    while let Some(dir) = todo.pop() {
        if dir.xattrs_self().map_err(io)?.iter().any(|(name, value)| is_opaque(name, value)) {
            return Ok(true);
        }
        for entry in dir.list().map_err(io)? {
            let is_dir = match entry.kind {
                Some(kind) => kind == kiln_fstree::Kind::Dir,
                None => dir.stat(&entry.name).map_err(io)?.is_dir(),
            };
            if is_dir {
                todo.push(dir.open_dir(&entry.name).map_err(io)?);
            }
        }
    }
    Ok(false)
}

fn is_opaque(name: &str, value: &[u8]) -> bool {
    name == "trusted.overlay.opaque" && value == b"y"
}

fn native(node: &Arc<Node>, snapshots: &dyn Snapshotter) -> Result<(Stack, Vec<Active>), Error> {
    let mut all = Vec::new();
    let base = match &node.parents {
        Parents::Merge(parents) => {
            let (first, rest) = parents.split_first().ok_or_else(|| Error::Gone(node.id.clone()))?;
            for layer in rest.iter().flat_map(flatten) {
                all.push(change_of(&layer)?);
            }
            Worker::stack_of(first)?
        }
        _ => {
            for layer in flatten(node) {
                all.push(change_of(&layer)?);
            }
            Stack::default()
        }
    };
    let active = snapshots.prepare(&base)?;
    for change in &all {
        transfer(&node.id, snapshots, change, active.id(), false)?;
    }
    Ok((snapshots.stack(active.id(), &base), vec![active]))
}

/// Carries out in the folder of `target` what `change` changes: writes it as a layer and unpacks that, deletions as
/// whiteouts of `overlay` or carried out. Errors are about `node`.
pub(crate) fn transfer(
    node: &dyn std::fmt::Display,
    snapshots: &dyn Snapshotter,
    change: &Change,
    target: &SnapshotId,
    overlay: bool,
) -> Result<(), Error> {
    let lower = snapshots.view(&change.lower)?.open()?;
    let upper = snapshots.view(&change.upper)?.open()?;
    let dest = Root::open(snapshots.path(target))?;
    let options = if overlay { ApplyOptions::overlay() } else { ApplyOptions::native() };
    let (reader, pipe) =
        std::io::pipe().map_err(|source| kiln_fstree::Error::Io { op: "pipe", path: "/".into(), source })?;
    let settings =
        DiffOptions { settings: Settings::from(Compression::Uncompressed), ..DiffOptions::default() };
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || diff::trees(Some(&lower), &upper, pipe, &settings).map(drop));
        let applied = kiln_layer::apply(reader, &dest, &options);
        let written =
            writer.join().map_err(|_| Error::Task("the thread that compares trees panicked".into()))?;
        // A reader that failed breaks the writer's pipe: its own error tells more.
        applied.map_err(Error::layer(node))?;
        written.map_err(Error::layer(node))
    })
}
