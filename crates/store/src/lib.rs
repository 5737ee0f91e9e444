//! Kiln's store: everything a daemon keeps between builds, in one folder.
//!
//! ```text
//! <root>/kiln/lock                 held by the one process that may write here
//! <root>/kiln/kiln.reserve         room for deletions on a full disk
//! <root>/kiln/kiln.redb            every record, one transaction per change, grouped by one writer
//! <root>/kiln/content/blobs/sha256/<hex>
//! <root>/kiln/content/ingest/<name>         blobs being written
//! <root>/kiln/snapshots/<id>/fs    the tree (native) or the layer (overlay upper)
//! <root>/kiln/snapshots/<id>/work  overlay's work folder, while the snapshot is active
//! ```
//!
//! # What survives what
//!
//! *A killed process.* Data is put in place first and its record is written last; a record is deleted first, made
//! durable, and only then its data. So a record never names data that is not there, and data without a record is a
//! leftover. Leftovers carry the generation (start number) of the process that made them; the sweep of a later
//! generation removes them.
//!
//! *A power loss.* Blobs and snapshots are not synced on the way; they are listed as *uncovered* until a `syncfs`
//! ([`Store::cover`]) has passed over them. A start under another boot id finds the list and reports what it names as
//! [`Store::lost`]; the owner of the records drops them and calls [`Store::forget_lost`].
//!
//! # Who owns what
//!
//! Blobs and snapshots live as long as a lease holds them ([`StoreTx::hold`]). Whoever releases the last hold deletes the
//! record in the same transaction; the reaper thread removes the data afterwards.

mod boot;
mod content;
mod db;
mod error;
mod lease;
mod lock;
mod mount;
mod reaper;
mod size;
mod snapshot;
mod store;
mod sweep;

pub use content::{Blob, BlobInfo, Content, Ingest};
pub use db::{Db, Decode, Encode, Json, Table, Tx, Value};
pub use error::Error;
pub use lease::{Lease, LeaseId, LeaseInfo, Resource};
pub use lock::RootLock;
pub use mount::{MountSpec, OverlayUpper};
pub use size::{Meter, Sizes};
pub use snapshot::{
    Active, NativeSnapshotter, OverlaySnapshotter, SnapshotId, SnapshotInfo, Snapshotter, SnapshotterKind,
    Stack, Usage,
};
pub use store::{Options, Store, StoreTx};
pub use sweep::Swept;
