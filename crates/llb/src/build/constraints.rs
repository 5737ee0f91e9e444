//! What every op may carry besides itself: platform, worker filters, metadata, source locations.

use std::borrow::Cow;
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
    /// Keys and values that progress may show. Small lists: an op has few, and there are many ops.
    description: Vec<(Cow<'static, str>, String)>,
    caps: Vec<Cow<'static, str>>,
    /// What there is beside these.
    pub(super) metadata: Option<Box<pb::OpMetadata>>,
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
    pub fn description(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.description.push((key.into(), value.into()));
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
        self.rare().ignore_cache = true;
        self
    }

    /// Whether cache exporters take the result along.
    #[must_use]
    pub fn export_cache(mut self, value: bool) -> Self {
        self.rare().export_cache = Some(pb::ExportCache { value });
        self
    }

    /// Shows several ops as one.
    #[must_use]
    pub fn progress_group(mut self, group: pb::ProgressGroup) -> Self {
        self.rare().progress_group = Some(group);
        self
    }

    /// Limits memory and processors.
    #[must_use]
    pub fn linux_resources(mut self, resources: pb::LinuxResources) -> Self {
        self.rare().linux_resources = Some(resources);
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
    pub fn cap(mut self, cap: impl Into<Cow<'static, str>>) -> Self {
        self.caps.push(cap.into());
        self
    }

    pub(super) fn add_cap(&mut self, cap: &'static str) {
        self.caps.push(Cow::Borrowed(cap));
    }

    /// Those of an op that came from a definition.
    pub(super) fn of(metadata: pb::OpMetadata, locations: Vec<Location>) -> Self {
        Self { metadata: Some(Box::new(metadata)), locations, ..Self::default() }
    }

    fn rare(&mut self) -> &mut pb::OpMetadata {
        self.metadata.get_or_insert_default()
    }

    /// All that the metadata of the op says.
    pub(super) fn to_metadata(&self) -> pb::OpMetadata {
        let mut metadata = self.metadata.as_deref().cloned().unwrap_or_default();
        let description =
            self.description.iter().map(|(key, value)| (key.clone().into_owned(), value.clone()));
        metadata.description.extend(description);
        metadata.caps.extend(self.caps.iter().map(|cap| (cap.clone().into_owned(), true)));
        metadata
    }
}

/// Two ops with equal bytes are one: what either says counts, the later on conflicts.
pub(super) fn merge_metadata(into: &mut pb::OpMetadata, from: pb::OpMetadata) {
    into.ignore_cache |= from.ignore_cache;
    into.description.extend(from.description);
    into.caps.extend(from.caps);
    into.export_cache = from.export_cache.or(into.export_cache);
    into.progress_group = from.progress_group.or(into.progress_group.take());
    into.linux_resources = from.linux_resources.or(into.linux_resources.take());
}
