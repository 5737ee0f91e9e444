//! What a frontend gives back.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kiln_proto::gateway;

use crate::BuildRef;

/// The trees of a result. `None` is the empty tree.
#[derive(Clone, Debug)]
pub enum Refs {
    /// One.
    Single(Option<Arc<BuildRef>>),
    /// One for each platform, by the names of the metadata `refs.platforms`.
    Map(BTreeMap<String, Option<Arc<BuildRef>>>),
}

impl Refs {
    /// The tree of a platform, by its name; `None` is the empty one. A single tree is that of any.
    #[must_use]
    pub fn of(&self, platform: &str) -> Option<&Arc<BuildRef>> {
        match self {
            Self::Single(one) => one.as_ref(),
            Self::Map(many) => many.get(platform).and_then(Option::as_ref),
        }
    }

    /// All trees, the empty ones left out.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<BuildRef>> {
        let (one, many) = match self {
            Self::Single(one) => (one.as_ref(), None),
            Self::Map(many) => (None, Some(many.values().flatten())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Trees with what is to be known of them.
#[derive(Clone, Debug)]
pub struct FrontendResult {
    /// The trees.
    pub refs: Refs,
    /// Image configs (`containerimage.config`), platforms (`refs.platforms`) and whatever else the frontend says.
    pub metadata: BTreeMap<String, Bytes>,
    /// By platform, as frontends of clients give them.
    pub attestations: BTreeMap<String, gateway::Attestations>,
}

impl FrontendResult {
    /// A result of one tree without metadata.
    #[must_use]
    pub fn single(tree: Option<Arc<BuildRef>>) -> Self {
        Self { refs: Refs::Single(tree), metadata: BTreeMap::new(), attestations: BTreeMap::new() }
    }
}
