//! What every op may carry besides itself: platform, worker filters, metadata, source locations.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use kiln_oci::Platform;
use kiln_proto::{OpMetadata, Ranges, SmallMap, pb};
use smallvec::SmallVec;

use super::State;

/// The key of the name that progress shows, among an op's descriptions.
pub const CUSTOM_NAME: &str = "llb.customname";

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
    /// Where in it.
    pub ranges: Ranges,
}

/// Platform, worker filters and metadata of an op. Metadata is not part of the digest.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    pub(super) platform: Option<Arc<Platform>>,
    /// Keys and values that progress may show.
    description: SmallMap<ByteString>,
    /// Capabilities that the op itself does not tell.
    pub(super) caps: SmallVec<[&'static str; 1]>,
    location: Option<Location>,
    rare: Option<Box<Rare>>,
}

/// What few ops have.
#[derive(Debug, Clone, Default)]
struct Rare {
    filters: Vec<String>,
    /// What there is beside descriptions and capabilities.
    metadata: OpMetadata,
    unique_id: Option<String>,
    /// After the first.
    more_locations: Vec<Location>,
}

impl Constraints {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The op is for this platform, whatever the state's is.
    #[must_use]
    pub fn platform(mut self, platform: impl Into<Arc<Platform>>) -> Self {
        self.platform = Some(platform.into());
        self
    }

    /// Only workers that match the filter may do it.
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.rare().filters.push(filter.into());
        self
    }

    /// A key and value that progress may show.
    #[must_use]
    pub fn description(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<ByteString>) -> Self {
        self.description.insert(key, value.into());
        self
    }

    /// Keys and values that progress may show, in place of those before.
    #[must_use]
    pub fn descriptions(mut self, all: impl Into<SmallMap<ByteString>>) -> Self {
        self.description = all.into();
        self
    }

    /// The name that progress shows.
    #[must_use]
    pub fn custom_name(self, name: impl Into<ByteString>) -> Self {
        self.description(CUSTOM_NAME, name)
    }

    /// Do it anew even if the result is known.
    #[must_use]
    pub fn ignore_cache(mut self) -> Self {
        self.rare().metadata.ignore_cache = true;
        self
    }

    /// Whether cache exporters take the result along.
    #[must_use]
    pub fn export_cache(mut self, value: bool) -> Self {
        self.rare().metadata.export_cache = Some(pb::ExportCache { value });
        self
    }

    /// Shows several ops as one.
    #[must_use]
    pub fn progress_group(mut self, group: pb::ProgressGroup) -> Self {
        self.rare().metadata.progress_group = Some(Box::new(group));
        self
    }

    /// Limits memory and processors.
    #[must_use]
    pub fn linux_resources(mut self, resources: pb::LinuxResources) -> Self {
        self.rare().metadata.linux_resources = Some(Box::new(resources));
        self
    }

    /// Where in which file the op stands.
    #[must_use]
    pub fn location(mut self, map: &Arc<SourceMap>, ranges: impl Into<Ranges>) -> Self {
        self.add_location(Location { map: Arc::clone(map), ranges: ranges.into() });
        self
    }

    fn add_location(&mut self, location: Location) {
        if self.location.is_none() {
            self.location = Some(location);
        } else {
            self.rare().more_locations.push(location);
        }
    }

    pub(super) fn locations(&self) -> impl Iterator<Item = &Location> {
        let more = self.rare.iter().flat_map(|rare| &rare.more_locations);
        self.location.iter().chain(more)
    }

    /// Local sources: makes the op unique, in place of [`super::Marshal::unique_id`].
    #[must_use]
    pub fn unique_id(mut self, id: impl Into<String>) -> Self {
        self.rare().unique_id = Some(id.into());
        self
    }

    pub(super) fn own_id(&self) -> Option<&str> {
        self.rare.as_ref()?.unique_id.as_deref()
    }

    pub(super) fn filters(&self) -> &[String] {
        self.rare.as_ref().map_or(&[], |rare| &rare.filters)
    }

    pub(super) fn limits_resources(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.metadata.linux_resources.is_some())
    }

    /// A capability that the daemon must have.
    #[must_use]
    pub fn cap(mut self, cap: &'static str) -> Self {
        self.caps.push(cap);
        self
    }

    pub(super) fn add_cap(&mut self, cap: &'static str) {
        self.caps.push(cap);
    }

    /// Those of an op that came from a definition.
    pub(super) fn of(metadata: OpMetadata, locations: impl Iterator<Item = Location>) -> Self {
        let mut constraints = Self::default();
        constraints.rare().metadata = metadata;
        locations.for_each(|location| constraints.add_location(location));
        constraints
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// All that the metadata of the op says; `caps` are its capabilities.
    pub(super) fn to_metadata(&self, caps: SmallMap<bool>) -> OpMetadata {
        let Some(rare) = &self.rare else {
            return OpMetadata { description: self.description.clone(), caps, ..OpMetadata::default() };
        };
        let mut metadata = rare.metadata.clone();
        metadata.description.merge(&self.description);
        metadata.caps.merge(&caps);
        metadata
    }
}

/// Two ops with equal bytes are one: what either says counts, the later on conflicts.
pub(super) fn merge_metadata(into: &mut OpMetadata, from: OpMetadata) {
    into.ignore_cache |= from.ignore_cache;
    into.description.merge(&from.description);
    into.caps.merge(&from.caps);
    into.export_cache = from.export_cache.or(into.export_cache);
    into.progress_group = from.progress_group.or(into.progress_group.take());
    into.linux_resources = from.linux_resources.or(into.linux_resources.take());
}
