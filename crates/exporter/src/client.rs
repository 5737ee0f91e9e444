//! The client's end of an output: a file, a folder, or a store of blobs.

use std::{collections::BTreeMap, fs::File, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use kiln_fstree::diffcopy::{self, Progress};
use kiln_oci::Descriptor;
use kiln_session::{Session, caller};
use tonic::Code;

use crate::error::{Error, Result};

/// The id by which clients know the store that outputs go to.
const STORE: &str = "export";

/// A file that is being written.
pub trait FileSink: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>>;
    /// Ends the file, and waits until the client has it.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// Takes what a build puts out.
pub trait Client: Send + Sync {
    /// Opens the output as a file. The response so far goes ahead of it.
    fn open_file(&self, response: &BTreeMap<String, String>) -> Result<Box<dyn FileSink>>;
    /// Sends trees into the output, a folder.
    fn send_trees(&self, trees: Vec<diffcopy::Tree>, progress: Progress) -> BoxFuture<'_, Result<()>>;
    /// Puts a blob into the output, a content store. One that it has already is fine.
    fn put_blob<'a>(&'a self, descriptor: &'a Descriptor, blob: File) -> BoxFuture<'a, Result<()>>;
}

/// A client that is connected by a session.
#[derive(Clone, Debug)]
pub struct SessionClient {
    session: Arc<Session>,
    output: usize,
}

impl SessionClient {
    /// The client's output number `output`.
    pub fn new(session: Arc<Session>, output: usize) -> Self {
        SessionClient { session, output }
    }
}

impl Client for SessionClient {
    fn open_file(&self, response: &BTreeMap<String, String>) -> Result<Box<dyn FileSink>> {
        Ok(Box::new(SessionFile(caller::send_file(&self.session, self.output, response)?)))
    }

    fn send_trees(&self, trees: Vec<diffcopy::Tree>, progress: Progress) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let caller::PacketStreams { outgoing, incoming } =
                caller::send_files(&self.session, self.output).await?;
            let incoming = futures::stream::unfold(incoming, async |mut incoming| {
                let message = incoming.message().await.transpose()?;
                Some((message, incoming))
            });
            diffcopy::send(trees, Box::pin(incoming), outgoing, Some(progress)).await?;
            Ok(())
        })
    }

    fn put_blob<'a>(&'a self, descriptor: &'a Descriptor, blob: File) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let store = caller::ContentStore::new(self.session.clone(), STORE)?;
            Ok(store.put(descriptor.digest.as_str(), descriptor.size, blob).await?)
        })
    }
}

/// Whether the client says that it has this already.
pub(crate) fn is_there(error: &Error) -> bool {
    matches!(error, Error::Client(error) if error.code() == Some(Code::AlreadyExists))
}

struct SessionFile(caller::FileWriter);

impl FileSink for SessionFile {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { Ok(self.0.write(bytes).await?) })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { Ok(self.0.close().await?) })
    }
}
