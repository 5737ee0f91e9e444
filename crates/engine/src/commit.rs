//! Writing keys, links and results to the engine's own store.
//!
//! A key gets its id by its links: an id that every input leads to, or a new one. Where an input has a content key,
//! only that one counts, as the definition may have given other content before. Then every alternative of every input
//! is linked to the id, so that the next build finds it by the cheapest way.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::export::RecordRef;
use crate::key::Shape;
use crate::store::StoreHandle;
use crate::sync::lock;
use crate::{Change, Domain, Key, KeyDep, KeyId, KeyKind, Link, Loaded, OpContext, Record, StoreError};

type Links = Vec<(KeyId, Link, KeyId)>;

/// Saves a result under all of `keys`.
pub(crate) async fn save<D: Domain>(
    main: &StoreHandle<D>,
    keys: &[Key<D>],
    output: &D::Output,
    created_at: SystemTime,
) -> Result<(), StoreError> {
    let mut links = Links::new();
    let ids: Vec<KeyId> = keys.iter().map(|key| resolve(main, key, &mut links)).collect();
    let lasting: Vec<KeyId> = ids.iter().copied().filter(is_lasting).collect();
    if lasting.is_empty() {
        return Ok(());
    }
    let result = Some((output, lasting, created_at));
    let record = main.store.save(Change { links, result }).await?;
    for (key, id) in keys.iter().zip(ids).filter(|(_, id)| is_lasting(id)) {
        let record = record.clone().map(|id| Record { id, created_at });
        note_record(key, main, id, record, output);
    }
    Ok(())
}

/// Keys that follow from random roots alone are worth nothing to later builds, and are not written at all.
fn is_lasting(id: &KeyId) -> bool {
    id.kind() != KeyKind::Random
}

/// Saves the links that lead to a key whose id is known.
pub(crate) async fn link<D: Domain>(main: &StoreHandle<D>, key: &Key<D>) -> Result<(), StoreError> {
    let mut links = Links::new();
    let id = resolve(main, key, &mut links);
    link_alternatives(main, key, id, &mut links);
    if !links.is_empty() {
        main.store.save(Change { links, result: None }).await?;
    }
    Ok(())
}

/// Loads a result that was found under the key `id`, and keeps it under all of `keys`: one of an imported store in the
/// main one, and one of an op with several cache maps under those that did not find it. A failure of that is not one of
/// the load.
pub(crate) async fn load<D: Domain>(
    main: &StoreHandle<D>,
    cx: &OpContext<D>,
    store: &StoreHandle<D>,
    id: KeyId,
    record: &Record,
    keys: &[Key<D>],
) -> Result<D::Output, StoreError> {
    let loaded = store.store.load(cx, id, record).await?;
    for key in keys {
        note_record(key, store, id, Some(record.clone()), &loaded.output);
    }
    if let Err(error) = keep(main, store, record, keys, &loaded).await {
        tracing::warn!(%error, key = %id, store = store.store.name(), "a cached result was not kept");
    }
    Ok(loaded.output)
}

async fn keep<D: Domain>(
    main: &StoreHandle<D>,
    store: &StoreHandle<D>,
    record: &Record,
    keys: &[Key<D>],
    loaded: &Loaded<D>,
) -> Result<(), StoreError> {
    if store != main {
        save(main, keys, &loaded.output, record.created_at).await?;
        for key in keys {
            save_parents(main, store, key, &loaded.parents).await?;
        }
        return Ok(());
    }
    let without = |key: &&Key<D>| key.root_id().is_some_and(|id| main.store.records(&id).is_empty());
    let missing: Vec<Key<D>> = keys.iter().filter(without).cloned().collect();
    if !missing.is_empty() {
        save(main, &missing, &loaded.output, record.created_at).await?;
    }
    for key in keys {
        link(main, key).await?;
    }
    Ok(())
}

/// Saves results of keys that `key` follows from, which came along with an imported result.
async fn save_parents<D: Domain>(
    main: &StoreHandle<D>,
    store: &StoreHandle<D>,
    key: &Key<D>,
    parents: &[(KeyId, Record, D::Output)],
) -> Result<(), StoreError> {
    if parents.is_empty() {
        return Ok(());
    }
    let keys = reachable(store, key);
    for (id, record, output) in parents {
        if let Some(key) = keys.get(id) {
            save(main, std::slice::from_ref(key), output, record.created_at).await?;
        }
    }
    Ok(())
}

/// The keys that `key` follows from, by their id in `store`.
fn reachable<D: Domain>(store: &StoreHandle<D>, key: &Key<D>) -> HashMap<KeyId, Key<D>> {
    let mut keys = HashMap::new();
    let mut seen = HashSet::from([Arc::as_ptr(&key.0)]);
    let mut stack = vec![key.clone()];
    while let Some(key) = stack.pop() {
        keys.extend(key.known_in(store).map(|id| (id, key.clone())));
        let deps = key.deps().iter().flatten().map(|d| d.key.clone());
        stack.extend(deps.filter(|k| seen.insert(Arc::as_ptr(&k.0))));
    }
    keys
}

fn note_record<D: Domain>(
    key: &Key<D>,
    store: &StoreHandle<D>,
    id: KeyId,
    record: Option<Record>,
    output: &D::Output,
) {
    let Some(record) = record else { return };
    let reference = RecordRef {
        store: store.store.clone(),
        key: id,
        record,
        output: Some(output.clone()),
        vertex: key.0.vertex.clone(),
    };
    *lock(&key.0.record) = Some(reference);
}

/// The id of a key in the main store; new links go to `links`. Keys that it follows from get theirs too.
fn resolve<D: Domain>(main: &StoreHandle<D>, key: &Key<D>, links: &mut Links) -> KeyId {
    let mut stack = vec![(key.clone(), false)];
    while let Some((key, ready)) = stack.pop() {
        if key.known_in(main).is_some() {
            continue;
        }
        if !ready {
            stack.push((key.clone(), true));
            let deps = key.deps().iter().flatten().map(|d| (d.key.clone(), false));
            stack.extend(deps.filter(|(k, _)| k.known_in(main).is_none()));
            continue;
        }
        let id = find_id(main, &key).unwrap_or_else(|| new_id(main, &key));
        key.learn(main, id);
        link_alternatives(main, &key, id, links);
    }
    key.known_in(main).unwrap_or_else(|| new_id(main, key))
}

/// The alternatives of an input that identify a result: its content, or else its definition.
fn telling<D: Domain>(deps: &[KeyDep<D>]) -> impl Iterator<Item = &KeyDep<D>> {
    let is_content = |d: &KeyDep<D>| matches!(d.key.0.shape, Shape::Content(_));
    let by_content = deps.iter().any(is_content);
    deps.iter().filter(move |d| !by_content || is_content(d))
}

fn link_of<D: Domain>(key: &Key<D>, input: usize, dep: &KeyDep<D>) -> Option<Link> {
    let Shape::Linked { digest, output } = &key.0.shape else { return None };
    Some(Link { input, output: *output, digest: digest.clone(), selector: dep.selector.clone() })
}

/// The first id that all inputs lead to.
fn find_id<D: Domain>(main: &StoreHandle<D>, key: &Key<D>) -> Option<KeyId> {
    let mut found: Option<BTreeSet<KeyId>> = None;
    for (input, deps) in key.deps().iter().enumerate() {
        let mut here = BTreeSet::new();
        for dep in telling(deps) {
            if let (Some(from), Some(link)) = (dep.key.known_in(main), link_of(key, input, dep)) {
                here.extend(main.store.links(&from, &link));
            }
        }
        let both = match found {
            Some(found) => found.intersection(&here).copied().collect(),
            None => here,
        };
        if both.is_empty() {
            return None;
        }
        found = Some(both);
    }
    found?.into_iter().next()
}

/// An id made of what the key follows from, so that whoever makes the same key at the same time makes the same id.
fn new_id<D: Domain>(main: &StoreHandle<D>, key: &Key<D>) -> KeyId {
    let mut text = key.export_digest().to_string();
    let mut kind = KeyKind::Linked;
    for deps in key.deps() {
        let named = telling(deps).filter_map(|d| Some((d.key.known_in(main)?, d.selector.as_ref())));
        let first = named.min_by_key(|(id, selector)| (!is_lasting(id), *id, selector.cloned()));
        if !deps.iter().any(|d| d.key.known_in(main).is_some_and(|id| is_lasting(&id))) {
            kind = KeyKind::Random;
        }
        if let Some((id, selector)) = first {
            text.push_str(&format!(";{id}/{}", selector.map_or("", |s| s.as_str())));
        }
    }
    KeyId::new(kind, Sha256::digest(text.as_bytes()).into())
}

/// Every lasting alternative of every input leads to `id`.
fn link_alternatives<D: Domain>(main: &StoreHandle<D>, key: &Key<D>, id: KeyId, links: &mut Links) {
    for (input, deps) in key.deps().iter().enumerate() {
        for dep in deps {
            let (Some(from), Some(link)) = (dep.key.known_in(main), link_of(key, input, dep)) else {
                continue;
            };
            let lasting = is_lasting(&from) && is_lasting(&id);
            if lasting && !main.store.links(&from, &link).contains(&id) {
                links.push((from, link, id));
            }
        }
    }
}
