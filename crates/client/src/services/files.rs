//! The client's folders: build contexts and the like.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use futures::StreamExt as _;
use kiln_fstree::{
    Filter, Mapped, Root,
    diffcopy::{self, Tree},
};
use kiln_proto::{
    filesync::file_sync_server::{FileSync, FileSyncServer},
    fsutil::{Packet, Stat},
    limits::Limited as _,
};
use kiln_session::headers;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Outgoing, failed};

/// Packets that wait to be sent.
const QUEUE: usize = 128;

/// Folders by the names that the daemon knows them by. Owners are not told: whoever builds, files belong to root.
#[derive(Clone, Debug, Default)]
pub struct Files(Arc<BTreeMap<String, PathBuf>>);

impl Files {
    /// The service for these folders.
    #[must_use]
    pub fn new(folders: BTreeMap<String, PathBuf>) -> FileSyncServer<Self> {
        FileSyncServer::new(Self(Arc::new(folders))).limited()
    }
}

#[tonic::async_trait]
impl FileSync for Files {
    type DiffCopyStream = Outgoing<Packet>;
    type TarStreamStream = Outgoing<Packet>;

    async fn diff_copy(
        &self,
        call: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let (metadata, _, incoming) = call.into_parts();
        let wanted = metadata.into_headers();
        let name = headers::get_list(&wanted, headers::DIR_NAME).pop().unwrap_or_default();
        let path = self
            .0
            .get(&name)
            .ok_or_else(|| Status::not_found(format!("no access allowed to dir {name:?}")))?;
        let root = Root::open(path)
            .map_err(|error| failed(format!("folder {name} ({}): {error}", path.display())))?;
        let filter = Filter {
            include: headers::get_list(&wanted, headers::INCLUDE_PATTERNS),
            exclude: headers::get_list(&wanted, headers::EXCLUDE_PATTERNS),
            follow_paths: headers::get_list(&wanted, headers::FOLLOW_PATHS),
            map: Some(Arc::new(|stat: &mut Stat| {
                (stat.uid, stat.gid) = (0, 0);
                Mapped::Keep
            })),
        };
        let (packets, outgoing) = mpsc::channel(QUEUE);
        let tree = Tree { at: None, root, filter, extra: Vec::new() };
        // An error is told to the daemon in a packet, and the daemon's are its own.
        tokio::spawn(async move { drop(diffcopy::send(vec![tree], incoming, packets, None).await) });
        Ok(Response::new(ReceiverStream::new(outgoing).map(Ok).boxed()))
    }

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("folders are sent by DiffCopy"))
    }
}
