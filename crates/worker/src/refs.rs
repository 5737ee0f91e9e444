//! Handles of immutable refs.

use std::sync::Arc;
use std::time::SystemTime;

use kiln_fstree::Root;
use kiln_oci::{Descriptor, Digest};
use kiln_store::{Json, MountSpec, Stack};

use crate::node::{Node, now_ms};
use crate::record::{Record, USED, VALUES};
use crate::{Error, Parents, RecordType, RefId, Worker};

/// Images and repositories that a ref remembers.
const IMAGE_REFS: usize = 32;

/// A tree that never changes, perhaps lazy. Cloning is cheap; while a clone lives the ref is in use.
#[derive(Clone, Debug)]
pub struct ImmutableRef {
    handle: Arc<Handle>,
}

/// One use of a ref: counted when it ends.
#[derive(Debug)]
struct Handle {
    node: Arc<Node>,
    counts: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.counts {
            return;
        }
        let key = self.node.id.as_str().to_owned();
        let noted = self.node.worker.store.change(|tx| {
            if let Some(Json(mut used)) = tx.get(&USED, &key)? {
                used.last = now_ms();
                used.count += 1;
                tx.put(&USED, &key, &Json(used));
            }
            Ok::<_, Error>(())
        });
        if let Err(error) = noted {
            tracing::warn!(id = %self.node.id, %error, "cannot note the use of a ref");
        }
    }
}

impl ImmutableRef {
    pub(crate) fn new(node: Arc<Node>, counts: bool) -> Self {
        Self { handle: Arc::new(Handle { node, counts }) }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.handle.node
    }

    /// Its id.
    pub fn id(&self) -> &RefId {
        &self.node().id
    }

    /// The worker that it belongs to.
    pub fn worker(&self) -> Worker {
        Worker::from_inner(Arc::clone(&self.node().worker))
    }

    /// Whether its files are not (all) on disk.
    pub fn is_lazy(&self) -> bool {
        self.node().stack().is_none()
    }

    /// The ref with its files, when these are on disk already. Merges and differences of such are put together by
    /// [`ImmutableRef::unpack`].
    pub fn unpacked(&self) -> Option<Unpacked> {
        let stack = self.node().stack()?;
        Some(Unpacked { of: self.clone(), stack })
    }

    /// What it is made of.
    pub fn parents(&self) -> Parents<Self> {
        self.node().parents.map(|node| Self::new(Arc::clone(node), false))
    }

    /// The digest of its layer's tar stream, if that is known.
    pub fn diff_id(&self) -> Option<Digest> {
        self.node().with(|record| record.diff_id.clone())
    }

    /// The chain id of its layers, if that is known.
    pub fn chain_id(&self) -> Option<Digest> {
        self.node().with(|record| record.chain_id.clone())
    }

    /// The chain id over its layers' blobs and diff ids, if it is known by blobs.
    pub fn blob_chain_id(&self) -> Option<Digest> {
        self.node().with(|record| record.blob_chain_id.clone())
    }

    /// The blobs of its layer that are known: different compressions of one tar stream. They need not be here.
    pub fn blobs(&self) -> Vec<Descriptor> {
        self.node().with(|record| record.blobs.clone())
    }

    /// The images that it is known to be a layer of.
    pub fn image_refs(&self) -> Vec<String> {
        self.node().with(|record| record.image_refs.clone())
    }

    /// Notes that it is a layer of the image `name`, or a blob of the repository of that name. The last few are kept.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn add_image_ref(&self, name: &str) -> Result<(), Error> {
        if self.node().with(|record| record.image_refs.iter().any(|known| known == name)) {
            return Ok(());
        }
        let note = |record: &mut Record| {
            let forgotten = (record.image_refs.len() + 1).saturating_sub(IMAGE_REFS);
            record.image_refs.drain(..forgotten);
            record.image_refs.push(name.to_owned());
        };
        self.node().update(note, |_| Ok(()))
    }

    /// What people are told that it is.
    pub fn description(&self) -> String {
        self.node().with(|record| record.description.clone())
    }

    /// Says what people are told that it is.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn set_description(&self, text: &str) -> Result<(), Error> {
        self.node().update(|record| text.clone_into(&mut record.description), |_| Ok(()))
    }

    /// `windows` for layers in that format, else empty.
    pub fn layer_type(&self) -> String {
        self.node().with(|record| record.layer_type.clone())
    }

    /// Says that the ref holds the tree of a Windows image (`windows`) or an ordinary one (empty).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn set_layer_type(&self, layer_type: &str) -> Result<(), Error> {
        self.node().update(|record| layer_type.clone_into(&mut record.layer_type), |_| Ok(()))
    }

    /// What it was made for.
    pub fn record_type(&self) -> RecordType {
        self.node().with(|record| record.record_type)
    }

    /// Changes what it was made for.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn set_record_type(&self, record_type: RecordType) -> Result<(), Error> {
        self.node().update(|record| record.record_type = record_type, |_| Ok(()))
    }

    /// When it was made.
    pub fn created(&self) -> SystemTime {
        self.node().with(Record::created)
    }

    /// Enters it under `key`, for [`Worker::find`].
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn add_key(&self, key: &str) -> Result<(), Error> {
        self.node().add_key(key)
    }

    /// A value that was kept with the ref (its content hashes, for example).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn value(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.node().value(name)
    }

    /// Keeps a value with the ref; it goes with the ref.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn set_value(&self, name: &str, value: Vec<u8>) -> Result<(), Error> {
        self.node().set_value(name, value)
    }
}

impl Node {
    pub(crate) fn value(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.worker.store.db().get(&VALUES, &(self.id.as_str().to_owned(), name.to_owned()))?)
    }

    pub(crate) fn set_value(&self, name: &str, value: Vec<u8>) -> Result<(), Error> {
        self.worker.store.change(|tx| {
            tx.put(&VALUES, &(self.id.as_str().to_owned(), name.to_owned()), &value);
            Ok(())
        })
    }

    pub(crate) fn add_key(&self, key: &str) -> Result<(), Error> {
        if self.with(|record| record.keys.iter().any(|known| known == key)) {
            return Ok(());
        }
        self.update(|record| record.keys.push(key.to_owned()), |_| Ok(()))
    }
}

impl PartialEq for ImmutableRef {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for ImmutableRef {}

/// The ref that is unpacked.
impl AsRef<ImmutableRef> for Unpacked {
    fn as_ref(&self) -> &ImmutableRef {
        &self.of
    }
}

/// An immutable ref whose files are on disk. Keeps the ref in use.
#[derive(Clone, Debug)]
pub struct Unpacked {
    of: ImmutableRef,
    stack: Stack,
}

impl Unpacked {
    pub(crate) fn new(of: ImmutableRef, stack: Stack) -> Self {
        Self { of, stack }
    }

    /// The snapshots that make up the tree.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// How to mount the tree, read-only. Whoever mounts it keeps this value until it is unmounted.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn mount_spec(&self) -> Result<MountSpec, Error> {
        Ok(self.of.node().worker.store.snapshots().view(&self.stack)?)
    }

    /// The tree itself, as a mount that is attached nowhere. Blocks for a moment.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(&self) -> Result<Root, Error> {
        Ok(self.mount_spec()?.open()?)
    }
}
