//! Putting merges and differences together on disk.
//!
//! With overlay both are, as far as possible, nothing but a stack of layers that are there already. A layer that deletes
//! something cannot be taken elsewhere as it is: an opaque folder would hide more than it should, and a whiteout of a name
//! that is not below shows when its folder is listed. What such a layer changes is carried out on the stack so far, in a
//! new layer on top, where overlay itself writes the whiteouts that are needed. So are differences whose sides do not
//! stand on one another; there the trees are compared.
//!
//! With native snapshots a copy of the first parent takes all changes of the others.

use std::sync::Arc;

use kiln_fstree::{Dir, Kind, Root};
use kiln_layer::{ApplyOptions, Compression, DiffOptions, Settings};
use kiln_store::{Active, SnapshotId, SnapshotInfo, Snapshotter, SnapshotterKind, Stack};

use crate::layers::{Change, change_of, flatten};
use crate::node::Node;
use crate::record::lease;
use crate::{Error, Parents, Worker};

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
            |record| {
                record.stack = Some(stack);
                record.size = None;
            },
            |tx| {
                let info = SnapshotInfo { whiteouts: true, ..SnapshotInfo::default() };
                made.iter()
                    .try_for_each(|active| Ok(tx.add_snapshot(active.id(), &info, &lease(&node.id))?))
            },
        )?;
        made.into_iter().for_each(|active| drop(active.keep()));
        Ok(())
    })
    .await?
}

/// What a merge or difference begins with, and the layers that come upon it.
fn parts(node: &Arc<Node>) -> Result<(Stack, Vec<Arc<Node>>), Error> {
    let Parents::Merge(parents) = &node.parents else { return Ok((Stack::default(), flatten(node))) };
    let (first, rest) = parents.split_first().ok_or_else(|| Error::Gone(node.id.clone()))?;
    let mut so_far = flatten(first);
    let begun = so_far.len();
    for parent in rest {
        let layers = flatten(parent);
        // What stands on all that there is brings only what it has above.
        let again = layers.len() >= so_far.len() && so_far.iter().zip(&layers).all(|(a, b)| a.id == b.id);
        let skip = if again { so_far.len() } else { 0 };
        so_far.extend(layers.into_iter().skip(skip));
    }
    Ok((Worker::stack_of(first)?, so_far.split_off(begun)))
}

fn overlay(node: &Arc<Node>, snapshots: &dyn Snapshotter) -> Result<(Stack, Vec<Active>), Error> {
    let (mut stack, layers) = parts(node)?;
    let mut made: Vec<Active> = Vec::new();
    for layer in layers {
        if let Some(own) = movable(&layer, &stack)? {
            stack = Stack::single(own).over(&stack);
            continue;
        }
        // Several changes in a row go into one new layer.
        if made.last().is_none_or(|last| stack.0.first() != Some(last.id())) {
            let active = snapshots.prepare(&stack)?;
            stack = snapshots.stack(active.id(), &stack);
            made.push(active);
        }
        if let Some(active) = made.last() {
            let dest = snapshots.writable(active.id(), active.base())?.open()?;
            transfer(&node.id, snapshots, &change_of(&layer)?, &dest)?;
        }
    }
    Ok((stack, made))
}

/// The own snapshot of a layer that means the same on any other layers.
fn movable(layer: &Node, stack: &Stack) -> Result<Option<SnapshotId>, Error> {
    let store = &layer.worker.store;
    let own = match &layer.parents {
        Parents::None | Parents::Layer(_) => layer.with(|record| record.snapshot.clone()),
        Parents::Merge(_) | Parents::Diff { .. } => None,
    };
    // The kernel refuses a layer twice.
    let Some(own) = own.filter(|own| !stack.0.contains(own)) else { return Ok(None) };
    let may_delete = store.change(|tx| tx.snapshot(&own))?.is_none_or(|info| info.whiteouts);
    if may_delete && deletes(Root::open(store.snapshots().path(&own))?.dir())? {
        return Ok(None);
    }
    Ok(Some(own))
}

/// Whether the layer in `dir` has whiteouts or opaque folders.
fn deletes(dir: &Dir) -> Result<bool, Error> {
    let io = |source| kiln_fstree::Error::Io { op: "list", path: "/".into(), source };
    let mut todo = vec![dir.try_clone().map_err(io)?];
    while let Some(dir) = todo.pop() {
        if dir.xattrs_self().map_err(io)?.get("trusted.overlay.opaque").is_some_and(|value| value == "y") {
            return Ok(true);
        }
        for entry in dir.list().map_err(io)? {
            let kind = match entry.kind {
                Some(kind) => kind,
                None => dir.stat(&entry.name).map_err(io)?.kind,
            };
            match kind {
                Kind::Dir => todo.push(dir.open_dir(&entry.name).map_err(io)?),
                Kind::CharDevice if dir.stat(&entry.name).map_err(io)?.device == (0, 0) => return Ok(true),
                _ => {}
            }
        }
    }
    Ok(false)
}

fn native(node: &Arc<Node>, snapshots: &dyn Snapshotter) -> Result<(Stack, Vec<Active>), Error> {
    let (base, layers) = parts(node)?;
    let active = snapshots.prepare(&base)?;
    let dest = Root::open(snapshots.path(active.id()))?;
    for layer in layers {
        transfer(&node.id, snapshots, &change_of(&layer)?, &dest)?;
    }
    Ok((snapshots.stack(active.id(), &base), vec![active]))
}

/// Carries out in the tree `dest` what `change` changes: writes it as a layer and unpacks that. Errors are about `what`.
pub(crate) fn transfer(
    what: &dyn std::fmt::Display,
    snapshots: &dyn Snapshotter,
    change: &Change,
    dest: &Root,
) -> Result<(), Error> {
    let (reader, pipe) =
        std::io::pipe().map_err(|source| kiln_fstree::Error::Io { op: "pipe", path: "/".into(), source })?;
    let settings =
        DiffOptions { settings: Settings::from(Compression::Uncompressed), ..DiffOptions::default() };
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || change.write(snapshots, pipe, &settings).map(drop));
        let applied = kiln_layer::apply(reader, dest, &ApplyOptions::native());
        let written =
            writer.join().map_err(|_| Error::Task("the thread that compares trees panicked".into()))?;
        // A reader that failed breaks the writer's pipe: its own error tells more.
        applied.map_err(Error::layer(what))?;
        written
    })
}
