//! Folders of the client.
//!
//! The tree that a transfer made is kept and brought up to date by the next one, so that an edit costs one file. It is found by the
//! folder's name, the client's hint and its shared key, and has one writer: a build that finds it in use receives a tree of its own.
//! While a transfer is under way the tree has no hashes, so that one that was killed leaves nothing to be believed: that is on disk
//! before the first file changes. Whoever stops waiting for a transfer leaves a task that sees it out, so that the tree is nobody
//! else's while it may still be written to.

use std::sync::Arc;

use futures::StreamExt as _;
use kiln_fstree::{
    contenthash::HashCache,
    diffcopy::{self, BeforeChange, Compare, ReceiveOptions},
};
use kiln_llb::source::Local;
use kiln_oci::Digest;
use kiln_pattern::Matcher;
use kiln_session::{
    Session,
    caller::{FileSyncRequest, receive_files},
};
use kiln_worker::{ImmutableRef, MutableRef, RecordType, RefOptions, Worker};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{Error, SourceContext, SourceKey};

/// The value of a ref that holds its content hashes.
pub const HASHES: &str = "contenthash";

/// A client's folder as a source.
#[derive(Debug)]
pub(crate) struct LocalSource {
    local: Local,
}

impl LocalSource {
    pub(crate) fn new(local: Local) -> Self {
        Self { local }
    }

    /// A key for this session only: whether the files are the ones of another build is found out by their content.
    pub(crate) fn key(&self, cx: &SourceContext) -> Result<SourceKey, Error> {
        #[derive(Serialize)]
        struct Key<'a> {
            session: &'a str,
            include: &'a [String],
            exclude: &'a [String],
            follow_paths: &'a [String],
            metadata_only: &'a Option<Vec<String>>,
        }
        let local = &self.local;
        let any = cx.sessions.ids().into_iter().next();
        let Some(session) = local.session.clone().or(any) else {
            let wanted = format!("the local folder {:?}", local.name);
            return Err(kiln_session::Error::NoSession { wanted }.into());
        };
        let json = serde_json::to_vec(&Key {
            session: &session,
            include: &local.include,
            exclude: &local.exclude,
            follow_paths: &local.follow_paths,
            metadata_only: &local.metadata_only,
        })?;
        let pin = Digest::sha256(json).to_string();
        let key = format!("session:{}:{pin}", local.name);
        Ok(SourceKey { key, last: true, pin, blobs: Vec::new() })
    }

    pub(crate) async fn snapshot(&self, worker: &Worker, cx: &SourceContext) -> Result<ImmutableRef, Error> {
        let sessions = match &self.local.session {
            Some(id) => cx.sessions.preferring(id),
            None => cx.sessions.clone(),
        };
        let wanted = format!("the local folder {:?}", self.local.name);
        // A client that answers but fails in the middle is not another's to repair, so the outcome travels as a value.
        let outcome = sessions.any(&wanted, |session| async move {
            let opened = self.open(&session)?;
            Ok(self.receive(worker, cx, &session, opened).await)
        });
        outcome.await?
    }

    fn open(&self, session: &Session) -> Result<kiln_session::caller::PacketStreams, kiln_session::Error> {
        let request = FileSyncRequest {
            dir_name: self.local.name.clone(),
            include_patterns: self.local.include.clone(),
            exclude_patterns: self.local.exclude.clone(),
            follow_paths: self.local.follow_paths.clone(),
        };
        receive_files(session, &request)
    }

    async fn receive(
        &self,
        worker: &Worker,
        cx: &SourceContext,
        session: &Session,
        streams: kiln_session::caller::PacketStreams,
    ) -> Result<ImmutableRef, Error> {
        let tree = self.tree(worker, session).await?;
        let name = self.local.name.clone();
        let kind = self.local.metadata_only.as_deref();
        let full = match kind {
            None => None,
            Some(patterns) => Some(Matcher::new(patterns).map_err(|error| Error::Image {
                reference: format!("local://{name}"),
                problem: error.to_string(),
            })?),
        };
        let Tree { mut mutable, mut hashes, known } = tree;
        let part = cx.progress.part_of(format!("transferring {name}:"), "transferring");
        let part = Arc::new(std::sync::Mutex::new(part));
        let told = part.clone();
        let store = worker.store().clone();
        let options = ReceiveOptions {
            compare: if self.local.differ_none { Compare::Nothing } else { Compare::Metadata },
            metadata_only: full.map(
                |matcher| -> Arc<dyn Fn(&kiln_proto::fsutil::Stat) -> bool + Send + Sync> {
                    Arc::new(move |stat| {
                        let path = String::from_utf8_lossy(&stat.path);
                        matcher.matches(&path)
                    })
                },
            ),
            hash: true,
            progress: Some(Arc::new(move |bytes, _last| {
                if let Ok(mut part) = told.lock() {
                    part.update(i64::try_from(bytes).unwrap_or(i64::MAX), 0);
                }
            })),
            before_change: known
                .then(|| Arc::new(move || store.db().sync().map_err(std::io::Error::other)) as BeforeChange),
            ..ReceiveOptions::default()
        };
        let abandoned = CancellationToken::new();
        let _abandon = abandoned.clone().drop_guard();
        let transfer = tokio::spawn(async move {
            let root = mutable.open()?;
            let incoming = streams.incoming.take_until(Box::pin(abandoned.cancelled_owned()));
            let received = diffcopy::receive(root, incoming, streams.outgoing, options).await;
            drop(part);
            match received {
                Ok(received) => Ok((mutable, received)),
                Err(error) => {
                    // Nobody knows what it looks like now.
                    mutable.discard()?;
                    Err(Error::Transfer { name, source: error })
                }
            }
        });
        let (mutable, received) = transfer.await??;
        let commit = tokio::task::spawn_blocking(move || {
            hashes.apply(&received.changes);
            mutable.set_value(HASHES, hashes.encode())?;
            mutable.commit_kept()
        });
        Ok(commit.await??)
    }

    /// The tree of the last transfer if it is free, else a new one.
    async fn tree(&self, worker: &Worker, session: &Session) -> Result<Tree, Error> {
        let local = &self.local;
        let only = if local.metadata_only.is_some() { ":metadata" } else { "" };
        let key = format!("local:{}:{}:{}{only}", local.name, local.shared_key_hint, session.shared_key());
        let (worker, description) = (worker.clone(), format!("local source for {}", local.name));
        let find = tokio::task::spawn_blocking(move || {
            for id in worker.find(&key)? {
                if let Some(mutable) = worker.reopen(&id)? {
                    let stored = mutable.value(HASHES)?.unwrap_or_default();
                    // A transfer that was given up leaves none.
                    let decoded = HashCache::decode(&stored);
                    let hashes = decoded.unwrap_or_else(|_| HashCache::of_transferred_tree());
                    mutable.set_value(HASHES, Vec::new())?;
                    return Ok::<_, Error>(Tree { mutable, hashes, known: true });
                }
            }
            let options = RefOptions {
                description,
                record_type: RecordType::LocalSource,
                retain: true,
                keys: vec![key],
                ..RefOptions::default()
            };
            let mutable = worker.create(None, options)?;
            Ok(Tree { mutable, hashes: HashCache::of_empty_tree(), known: false })
        });
        find.await?
    }
}

struct Tree {
    mutable: MutableRef,
    hashes: HashCache,
    /// Records of what it was like may be on disk.
    known: bool,
}
