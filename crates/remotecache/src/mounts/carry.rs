//! Blobs that are only passed on: from one cache to another, by way of the content store.

use std::io::Write as _;

use bytes::Bytes;
use futures::StreamExt as _;
use kiln_exporter::Context;
use kiln_oci::Descriptor;
use kiln_worker::BlobProvider;

use crate::Error;

/// Chunks that may wait to be written.
const QUEUE: usize = 32;

/// Brings a blob to the content store, where the export's lease holds it.
pub(crate) async fn fetch(cx: &Context, blob: &Descriptor, from: &dyn BlobProvider) -> Result<(), Error> {
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
