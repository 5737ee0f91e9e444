//! What is kept and how much it takes.

use std::borrow::Cow;

use kiln_store::{Json, Resource};

use crate::node::{is_live, now_ms};
use crate::record::{REFS, Record, USED, Used, lease, ref_of};
use crate::{Error, Filter, Parents, RecordType, RefId, Worker};

/// A ref's record as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRecord {
    /// The ref.
    pub id: RefId,
    /// Whether it may still change.
    pub mutable: bool,
    /// Whether somebody uses it, or a ref upon it.
    pub in_use: bool,
    /// Bytes on disk that go when it is pruned; 0 while a mutable one is in use.
    pub size: u64,
    /// What it stands on.
    pub parents: Vec<RefId>,
    /// Seconds since 1970.
    pub created: u64,
    /// Milliseconds since 1970; `None` when it was never used again.
    pub last_used: Option<u64>,
    /// How often it was used.
    pub usage_count: u64,
    /// What people are told that it is.
    pub description: String,
    /// What it was made for.
    pub record_type: RecordType,
    /// Whether its data is used outside of the cache. Always false: images that are kept have blobs of their own.
    pub shared: bool,
}

impl DiskRecord {
    /// A field of the filter language.
    pub(crate) fn field(&self, path: &[String]) -> (Cow<'_, str>, bool) {
        let text = |value: Cow<'_, str>| {
            let present = !value.is_empty();
            (Cow::Owned(value.into_owned()), present)
        };
        let flag = |value: bool| (Cow::Borrowed(""), value);
        match path.first().map(String::as_str) {
            Some("id") => text(self.id.as_str().into()),
            Some("parents") => {
                text(self.parents.iter().map(RefId::as_str).collect::<Vec<_>>().join(";").into())
            }
            Some("description") => text(self.description.as_str().into()),
            Some("type") => text(self.record_type.as_str().into()),
            Some("inuse") => flag(self.in_use),
            Some("mutable") => flag(self.mutable),
            Some("immutable") => flag(!self.mutable),
            Some("shared") => flag(self.shared),
            Some("private") => flag(!self.shared),
            _ => flag(false),
        }
    }
}

/// How many records are read from the store at a time.
const PAGE: usize = 500;

/// A record with all that listing needs.
pub(crate) struct Listed {
    pub(crate) id: RefId,
    pub(crate) record: Record,
    pub(crate) used: Used,
    pub(crate) live: bool,
}

impl Listed {
    pub(crate) fn describe(&self, size: u64) -> DiskRecord {
        let record = &self.record;
        DiskRecord {
            id: self.id.clone(),
            mutable: record.mutable,
            in_use: self.live,
            size,
            parents: record.parents.iter().cloned().collect(),
            created: record.created,
            last_used: (self.used.count > 0).then_some(self.used.last),
            usage_count: self.used.count,
            description: record.description.clone(),
            record_type: record.record_type,
            shared: false,
        }
    }
}

impl Worker {
    /// The records that match any of `filters` (all, when there are none), with their sizes. Those used within the last
    /// `age_limit_ms` milliseconds are left out; 0 leaves out none.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Store`].
    pub async fn disk_usage(&self, filters: &[String], age_limit_ms: u64) -> Result<Vec<DiskRecord>, Error> {
        let filter = Filter::parse(filters)?;
        let worker = self.clone();
        let list = move || {
            let cut = now_ms().saturating_sub(age_limit_ms);
            let mut out = Vec::new();
            for listed in worker.listed()? {
                let mut described = listed.describe(0);
                let recent = age_limit_ms > 0 && described.last_used.is_some_and(|last| last > cut);
                if filter.matches(|path| described.field(path)) && !recent {
                    described.size = worker.size_of(&listed)?;
                    out.push(described);
                }
            }
            Ok(out)
        };
        tokio::task::spawn_blocking(list).await?
    }

    /// All records. Of two refs that share their files one is left out: the immutable one, or while that is in use the kept
    /// one.
    pub(crate) fn listed(&self) -> Result<Vec<Listed>, Error> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store().db().page(&REFS, &(), after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, Json(record)) in page {
                let Some(id) = RefId::parse(&key) else { continue };
                let used = self.store().db().get(&USED, &key)?.map_or(Used::default(), |Json(used)| used);
                all.push(Listed { id, record, used, live: false });
            }
        }
        let live = self.inner().registry.lock();
        all.retain_mut(|listed| {
            listed.live = is_live(&live, &listed.id);
            match &listed.record.twin {
                Some(twin) if listed.record.mutable => !is_live(&live, twin),
                Some(_) => listed.live,
                None => true,
            }
        });
        Ok(all)
    }

    /// Bytes on disk of what only this ref holds.
    pub(crate) fn size_of(&self, listed: &Listed) -> Result<u64, Error> {
        if listed.record.mutable && listed.live {
            return Ok(0);
        }
        if let Some(size) = listed.record.size {
            return Ok(size);
        }
        let mut size = 0;
        for resource in self.store().held_by(&lease(&listed.id))? {
            // What several refs hold counts for the first of them.
            let holders = self.store().holders(&resource)?;
            let mut refs =
                holders.iter().filter_map(ref_of).filter(|id| Some(id) != listed.record.twin.as_ref());
            if refs.next().is_some_and(|first| first != listed.id) {
                continue;
            }
            size += self.resource_size(&resource)?;
        }
        if !listed.record.mutable {
            self.note_size(&listed.id, size)?;
        }
        Ok(size)
    }

    /// Bytes on disk of what nobody writes to.
    pub(crate) fn resource_size(&self, resource: &Resource) -> Result<u64, Error> {
        match resource {
            Resource::Blob(digest) => Ok(self.store().content().stat(digest)?.map_or(0, |info| info.size)),
            Resource::Snapshot(id) => Ok(self.store().snapshot_size(id).unwrap_or_else(|error| {
                // Pruned since it was listed.
                tracing::debug!(%error, snapshot = %id, "cannot measure a snapshot");
                0
            })),
        }
    }

    fn note_size(&self, id: &RefId, size: u64) -> Result<(), Error> {
        match self.load(id) {
            Ok(node) => node.update(|record| record.size = Some(size), |_| Ok(())),
            Err(Error::Gone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl<T> Parents<T> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}
