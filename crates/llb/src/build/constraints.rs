//! What every op may carry besides itself: platform, worker filters, metadata, source locations.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kiln_oci::Platform;
use kiln_proto::pb;

use super::State;

/// A file that ops come from, for error messages.
#[derive(Debug, Default)]
pub struct SourceMap {
    /// Its name.
    pub filename: String,
    /// Its language, in GitHub's names: `Dockerfile`.
    pub language: String,
    /// Its content.
    pub data: Bytes,
    /// Where it comes from.
    pub state: Option<State>,
}

/// A place in a source map.
#[derive(Debug, Clone)]
pub struct Location {
    /// The file.
    pub map: Arc<SourceMap>,
    /// Lines and characters in it.
    pub ranges: Vec<pb::Range>,
}

/// Platform, worker filters and metadata of an op. Metadata is not part of the digest.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    pub(super) platform: Option<Platform>,
    pub(super) filters: Vec<String>,
    pub(super) metadata: pb::OpMetadata,
    pub(super) unique_id: Option<String>,
    pub(super) locations: Vec<Location>,
}

impl Constraints {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The op is for this platform, whatever the state's is.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Only workers that match the filter may do it.
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.filters.push(filter.into());
        self
    }

    /// A key and value that progress may show.
    #[must_use]
    pub fn description(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.description.insert(key.into(), value.into());
        self
    }

    /// The name that progress shows.
    #[must_use]
    pub fn custom_name(self, name: impl Into<String>) -> Self {
        self.description("llb.customname", name)
    }

    /// Do it anew even if the result is known.
    #[must_use]
    pub fn ignore_cache(mut self) -> Self {
        self.metadata.ignore_cache = true;
        self
    }

    /// Whether cache exporters take the result along.
    #[must_use]
    pub fn export_cache(mut self, value: bool) -> Self {
        self.metadata.export_cache = Some(pb::ExportCache { value });
        self
    }

    /// Shows several ops as one.
    #[must_use]
    pub fn progress_group(mut self, group: pb::ProgressGroup) -> Self {
        self.metadata.progress_group = Some(group);
        self
    }

    /// Limits memory and processors.
    #[must_use]
    pub fn linux_resources(mut self, resources: pb::LinuxResources) -> Self {
        self.metadata.linux_resources = Some(resources);
        self
    }

    /// Where in which file the op stands.
    #[must_use]
    pub fn location(mut self, map: &Arc<SourceMap>, ranges: Vec<pb::Range>) -> Self {
        self.locations.push(Location { map: Arc::clone(map), ranges });
        self
    }

    /// Local sources: makes the op unique, in place of [`super::Marshal::unique_id`].
    #[must_use]
    pub fn unique_id(mut self, id: impl Into<String>) -> Self {
        self.unique_id = Some(id.into());
        self
    }

    /// A capability that the daemon must have.
    #[must_use]
    pub fn cap(mut self, cap: &str) -> Self {
        self.metadata.caps.insert(cap.to_owned(), true);
        self
    }

    pub(super) fn add_cap(&mut self, cap: &str) {
        self.metadata.caps.insert(cap.to_owned(), true);
    }
}

/// Two ops with equal bytes are one: what either says counts, the later on conflicts.
pub(super) fn merge_metadata(into: &mut pb::OpMetadata, from: &pb::OpMetadata) {
    into.ignore_cache |= from.ignore_cache;
    extend(&mut into.description, &from.description);
    extend(&mut into.caps, &from.caps);
    if from.export_cache.is_some() {
        into.export_cache = from.export_cache;
    }
    if from.progress_group.is_some() {
        into.progress_group.clone_from(&from.progress_group);
    }
    if from.linux_resources.is_some() {
        into.linux_resources.clone_from(&from.linux_resources);
    }
}

fn extend<V: Clone>(into: &mut BTreeMap<String, V>, from: &BTreeMap<String, V>) {
    into.extend(from.iter().map(|(k, v)| (k.clone(), v.clone())));
}
