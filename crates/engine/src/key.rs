//! Cache keys: the graph that the engine, every cache store and BuildKit share.
//!
//! ```text
//!   root key     id = sha256("<cache-map digest>@<output>")            an op without inputs
//!                id = random:<hex> when the digest is random           never persisted, never exported
//!                id = sha256("<content digest>@-1")                    the content of an input's files
//!   other keys   no id of their own meaning; found by their links:
//!
//!       key of input 0 ──(input 0, output, cache-map digest, selector)──▶ key
//!       key of input 1 ──(input 1, output, cache-map digest, selector)──▶ key
//!       content key of input 1 ──(input 1, output, cache-map digest, no selector)──▶ key
//! ```
//!
//! A key matches when, for each input, at least one of the alternative keys of that input links to it.

use std::fmt;
use std::sync::{Arc, Mutex};

use kiln_oci::Digest;
use sha2::{Digest as _, Sha256};

use crate::context::VertexState;
use crate::export::RecordRef;
use crate::store::StoreHandle;
use crate::sync::lock;
use crate::{CacheStore, Domain};

/// The digest of an op in its cache map.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheDigest {
    /// The same in every build: a match may be found at any time.
    Fixed(Digest),
    /// Only good while this process and session live (a local source): written `random:<hex>`. What follows from
    /// such a key alone is neither persisted nor exported; vertices after it match by content.
    Random(Digest),
}

impl CacheDigest {
    /// The digest's hash value, without the kind.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Fixed(d) | Self::Random(d) => d,
        }
    }

    /// Whether it is [`CacheDigest::Random`].
    pub fn is_random(&self) -> bool {
        matches!(self, Self::Random(_))
    }
}

impl From<Digest> for CacheDigest {
    fn from(digest: Digest) -> Self {
        Self::Fixed(digest)
    }
}

impl fmt::Display for CacheDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(d) => write!(f, "{d}"),
            Self::Random(d) => write!(f, "random:{}", d.hex()),
        }
    }
}

/// The kinds of [`KeyId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// A root key: the id is a hash that every store agrees on, written `sha256:<hex>`.
    Root = 0,
    /// A key that follows from a random root alone, written `random:<hex>`. Never written to a store: it joins edges
    /// that are at work.
    Random = 1,
    /// A key found by links. The id means something to one store only, written `key:<hex>`.
    Linked = 2,
}

/// The id of a key in a [`CacheStore`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId {
    kind: KeyKind,
    hash: [u8; 32],
}

impl KeyId {
    /// An id of a kind and a hash, for stores that read keys back or that import keys with foreign ids (which they
    /// hash, as [`KeyKind::Linked`]).
    pub fn new(kind: KeyKind, hash: [u8; 32]) -> Self {
        Self { kind, hash }
    }

    /// The root key of output `output` of an op with this cache-map digest.
    pub fn root(digest: &CacheDigest, output: usize) -> Self {
        match digest {
            CacheDigest::Fixed(d) => Self::hash(KeyKind::Root, &format!("{d}@{output}")),
            CacheDigest::Random(d) => Self::new(KeyKind::Random, hex_value(d)),
        }
    }

    /// The key of the content of an input: the root key of its digest at output -1.
    pub fn content(digest: &Digest) -> Self {
        Self::hash(KeyKind::Root, &format!("{digest}@-1"))
    }

    /// The root key that an exported cache names by this digest.
    pub fn from_exported(digest: &Digest) -> Self {
        Self::new(KeyKind::Root, hex_value(digest))
    }

    /// How an exported cache names this root key.
    pub fn exported(&self) -> Digest {
        Digest::from_sha256(self.hash)
    }

    fn hash(kind: KeyKind, text: &str) -> Self {
        Self::new(kind, Sha256::digest(text.as_bytes()).into())
    }

    /// Its kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Its hash.
    pub fn value(&self) -> &[u8; 32] {
        &self.hash
    }
}

/// The first 32 bytes of a digest's value; what is missing is hashed.
fn hex_value(digest: &Digest) -> [u8; 32] {
    let hex = digest.hex().as_bytes();
    let mut out = [0u8; 32];
    if hex.len() != 64 {
        return Sha256::digest(hex).into();
    }
    for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    out
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            KeyKind::Root => "sha256:",
            KeyKind::Random => "random:",
            KeyKind::Linked => "key:",
        })?;
        self.hash.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a key follows from a key of one input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// Which input of the op.
    pub input: usize,
    /// Which output of the op.
    pub output: usize,
    /// The op's cache-map digest.
    pub digest: CacheDigest,
    /// What of the input is used, when the op said so. Links from content keys have none.
    pub selector: Option<Digest>,
}

impl Link {
    /// The digest under which cache exporters name the key that this link leads to: the root key of digest and output.
    pub fn export_digest(&self) -> KeyId {
        KeyId::root(&self.digest, self.output)
    }
}

/// A key with the keys that it follows from. Cheap to clone; two are equal when they are the same object.
pub struct Key<D: Domain>(pub(crate) Arc<KeyNode<D>>);

/// One way in which a key follows from an input's key.
pub struct KeyDep<D: Domain> {
    /// A key of the input.
    pub key: Key<D>,
    /// The selector of the link.
    pub selector: Option<Digest>,
}

pub(crate) struct KeyNode<D: Domain> {
    pub(crate) shape: Shape,
    /// The vertex that it was found or made for.
    pub(crate) vertex: Option<Arc<VertexState<D>>>,
    pub(crate) export: Option<bool>,
    /// For each input its alternatives. Empty for roots.
    pub(crate) deps: Vec<Vec<KeyDep<D>>>,
    /// Where it is known by an id of a store. Roots are known everywhere and keep none here.
    ids: Mutex<Vec<(StoreHandle<D>, KeyId)>>,
    /// What the result under this key came from, for exporters.
    pub(crate) record: Mutex<Option<RecordRef<D>>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Root { digest: CacheDigest, output: usize },
    Content(Digest),
    Linked { digest: CacheDigest, output: usize },
}

impl Shape {
    pub(crate) fn output(&self) -> usize {
        match self {
            Self::Root { output, .. } | Self::Linked { output, .. } => *output,
            Self::Content(_) => 0,
        }
    }
}

impl<D: Domain> Key<D> {
    pub(crate) fn new(shape: Shape, deps: Vec<Vec<KeyDep<D>>>) -> Self {
        Self::for_vertex(shape, deps, None, None)
    }

    pub(crate) fn for_vertex(
        shape: Shape,
        deps: Vec<Vec<KeyDep<D>>>,
        vertex: Option<Arc<VertexState<D>>>,
        export: Option<bool>,
    ) -> Self {
        Self(Arc::new(KeyNode {
            shape,
            vertex,
            export,
            deps,
            ids: Mutex::default(),
            record: Mutex::default(),
        }))
    }

    /// The id that is the same in every store, for roots and content keys.
    pub fn root_id(&self) -> Option<KeyId> {
        match &self.0.shape {
            Shape::Root { digest, output } => Some(KeyId::root(digest, *output)),
            Shape::Content(digest) => Some(KeyId::content(digest)),
            Shape::Linked { .. } => None,
        }
    }

    /// The digest under which cache exporters name this key: the root key of its cache-map digest and output.
    pub fn export_digest(&self) -> KeyId {
        match &self.0.shape {
            Shape::Root { digest, output } | Shape::Linked { digest, output } => KeyId::root(digest, *output),
            Shape::Content(digest) => KeyId::content(digest),
        }
    }

    /// The id under which `store` knows the key, as far as anybody has found out.
    pub fn id_in(&self, store: &dyn CacheStore<D>) -> Option<KeyId> {
        self.root_id().or_else(|| lock(&self.0.ids).iter().find(|(s, _)| s.is(store)).map(|(_, id)| *id))
    }

    /// For each input the alternative keys that this one follows from.
    pub fn deps(&self) -> &[Vec<KeyDep<D>>] {
        &self.0.deps
    }

    pub(crate) fn known_in(&self, store: &StoreHandle<D>) -> Option<KeyId> {
        self.root_id().or_else(|| lock(&self.0.ids).iter().find(|(s, _)| s == store).map(|(_, id)| *id))
    }

    pub(crate) fn learn(&self, store: &StoreHandle<D>, id: KeyId) {
        let mut ids = lock(&self.0.ids);
        if self.0.deps.is_empty() || ids.iter().any(|(s, i)| s == store && *i == id) {
            return;
        }
        ids.push((store.clone(), id));
    }

    pub(crate) fn ids(&self) -> Vec<(StoreHandle<D>, KeyId)> {
        lock(&self.0.ids).clone()
    }
}

impl<D: Domain> Clone for Key<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Domain> PartialEq for Key<D> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<D: Domain> Eq for Key<D> {}

impl<D: Domain> fmt::Debug for Key<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("shape", &self.0.shape).field("inputs", &self.0.deps.len()).finish()
    }
}

impl<D: Domain> Clone for KeyDep<D> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), selector: self.selector.clone() }
    }
}

impl<D: Domain> fmt::Debug for KeyDep<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyDep").field("key", &self.key).field("selector", &self.selector).finish()
    }
}

/// Keys form chains as long as the build; dropping one must not recurse that deep.
impl<D: Domain> Drop for KeyNode<D> {
    fn drop(&mut self) {
        let mut rest: Vec<Vec<KeyDep<D>>> = std::mem::take(&mut self.deps);
        while let Some(deps) = rest.pop() {
            for dep in deps {
                if let Some(mut node) = Arc::into_inner(dep.key.0) {
                    rest.append(&mut node.deps);
                }
            }
        }
    }
}
