//! Blobs that are only passed on: from one cache to another, by way of the content store.

use std::io::Write as _;

use bytes::Bytes;
use futures::StreamExt as _;
use kiln_exporter::Context;
use kiln_oci::Descriptor;
use kiln_worker::{BlobProvider, Worker};

use crate::Error;

/// Chunks that may wait to be written.
const QUEUE: usize = 32;

/// Brings a blob to the content store, where the export's lease holds it.
///
/// # Errors
/// [`Error::Worker`]: there is no room for it, or it cannot be had.
pub(crate) async fn fetch(
    cx: &Context,
    worker: &Worker,
    blob: &Descriptor,
    from: &dyn BlobProvider,
) -> Result<(), Error> {
    // As much as a stranger says that it has.
    worker.make_room(blob.size).await?;
    let failed = |source| kiln_worker::Error::Fetch { digest: blob.digest.clone(), source };
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(QUEUE);
    let (store, lease, wanted) = (cx.store.clone(), cx.lease.clone(), blob.clone());
    let writing = tokio::task::spawn_blocking(move || {
        let mut ingest = store.content().ingest()?;
        while let Some(bytes) = receiver.blocking_recv() {
            if ingest.offset() + bytes.len() as u64 > wanted.size {
                break;
            }
            ingest.write_all(&bytes).map_err(|error| kiln_worker::Error::Fetch {
                digest: wanted.digest.clone(),
                source: error.into(),
            })?;
        }
        ingest.commit(&store, lease.id(), Some(&wanted.digest), Some(wanted.size))?;
        Ok::<_, Error>(())
    });
    let sent = async {
        let mut stream = from.open(blob, 0).await.map_err(failed)?;
        while let Some(bytes) = stream.next().await {
            if sender.send(bytes.map_err(failed)?).await.is_err() {
                // The writer has ended, and says why.
                break;
            }
        }
        Ok::<_, kiln_worker::Error>(())
    };
    let sent = sent.await;
    drop(sender);
    let written = writing.await.map_err(kiln_worker::Error::from)?;
    sent?;
    written
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::BoxFuture;
    use kiln_oci::media_type;
    use kiln_registry::{Auth, Registries};
    use kiln_store::{Options, SnapshotterKind, Store};
    use kiln_worker::{BlobStream, ProviderError};

    use super::*;

    #[derive(Debug)]
    struct Fixed(&'static [u8]);

    impl BlobProvider for Fixed {
        fn open<'a>(&'a self, _: &'a Descriptor, _: u64) -> BoxFuture<'a, Result<BlobStream, ProviderError>> {
            let bytes = Bytes::from_static(self.0);
            Box::pin(async move { Ok(Box::pin(futures::stream::iter([Ok(bytes)])) as BlobStream) })
        }
    }

    #[tokio::test]
    async fn what_has_no_room_is_not_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { snapshotter: Some(SnapshotterKind::Native), boot_id: Some("b".into()) };
        let store = Store::open(dir.path(), &options).unwrap();
        let worker = Worker::open(store.clone()).unwrap();
        let cx = Context {
            store: store.clone(),
            lease: Arc::new(store.lease().unwrap()),
            client: None,
            reporter: Arc::new(kiln_exporter::Silent),
            registries: Registries::new(Default::default(), "kiln/test"),
            auth: Auth::Anonymous,
            inline_cache: None,
        };
        worker.set_ceiling(1 << 20);
        let good = Descriptor::of(media_type::OCI_LAYER, b"some blob");
        fetch(&cx, &worker, &good, &Fixed(b"some blob")).await.unwrap();
        assert!(store.content().stat(&good.digest).unwrap().is_some());
        let mut large = Descriptor::of(media_type::OCI_LAYER, b"other");
        large.size = 2 << 20;
        let full = fetch(&cx, &worker, &large, &Fixed(b"other")).await;
        assert!(matches!(full, Err(Error::Worker(kiln_worker::Error::Full { .. }))), "{full:?}");
    }
}
