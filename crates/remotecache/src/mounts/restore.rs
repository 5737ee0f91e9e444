//! Cache mounts of an imported cache, for steps that run.

use std::sync::{Arc, Mutex};

use kiln_engine::{Part, VertexProgress};
use kiln_fstree::Root;
use kiln_session::Group;
use kiln_source::image::Place;
use kiln_worker::{BlobProvider as _, Worker, unpack_mount};

use super::{MountEntry, selection::shown};

/// Puts the content of a cache mount into the empty folder `root`; `cache` is what people call the cache.
pub(crate) async fn restore(
    worker: &Worker,
    (cache, place): (&str, &Place),
    entry: &MountEntry,
    root: Root,
    sessions: &Group,
    progress: &VertexProgress,
) -> Result<(), String> {
    let content = &entry.content;
    let (size, free) = (content.size, worker.free_space().map_err(|error| error.to_string())?);
    if size > free {
        return Err(format!("it has {size} bytes, and {free} are free"));
    }
    worker.make_room(size).await.map_err(|error| error.to_string())?;
    let part = progress.part(format!("restoring cache mount {} from {cache}", shown(&entry.id)));
    let total = i64::try_from(content.blob.size).unwrap_or(i64::MAX);
    let part = Arc::new(Mutex::new(part));
    let moved = {
        let (part, step) = (part.clone(), (content.blob.size / 64).max(1));
        let mut told = 0;
        move |current: u64| {
            if current - told >= step {
                told = current;
                update(&part, i64::try_from(current).unwrap_or(i64::MAX), total);
            }
        }
    };
    let place = place.with_sessions(sessions.clone());
    let stream = place.open(&content.blob, 0).await.map_err(|error| error.to_string())?;
    unpack_mount(root, content, stream, moved).await.map_err(|error| error.to_string())?;
    update(&part, total, total);
    Ok(())
}

fn update(part: &Mutex<Part>, current: i64, total: i64) {
    if let Ok(mut part) = part.lock() {
        part.update(current, total);
    }
}
