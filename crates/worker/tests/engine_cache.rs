//! The engine's cache in the store.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::fixtures;
use futures::FutureExt;
use futures::future::BoxFuture;
use kiln_engine::{
    Backlink, CacheDigest, CacheMap, CacheStore, Change, Domain, ExecError, KeyId, KeyKind, Link, MapsLeft,
    Op, OpContext, RecordId, StoreError,
};
use kiln_oci::Digest;
use kiln_worker::{CacheResults, EngineCache, ImmutableRef, PruneOptions, RefId, RefOptions, Worker};

#[derive(Debug)]
struct Test;

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl Domain for Test {
    type Op = Nothing;
    type Output = ImmutableRef;
    type Job = ();
    type Error = Never;
    type CacheOpts = ();
    type Material = ();
}

struct Nothing;

impl Op<Test> for Nothing {
    async fn cache_map(&self, _: &OpContext<Test>, _: usize) -> Result<(CacheMap<Test>, MapsLeft), Never> {
        Err(Never)
    }

    async fn exec(
        &self,
        _: &OpContext<Test>,
        _: Vec<ImmutableRef>,
    ) -> Result<Vec<ImmutableRef>, ExecError<Test>> {
        Ok(Vec::new())
    }
}

struct Results(Worker);

impl CacheResults<Test> for Results {
    fn id(&self, output: &ImmutableRef) -> Option<String> {
        Some(output.id().to_string())
    }

    fn exists(&self, id: &str) -> bool {
        RefId::parse(id).is_some_and(|id| self.0.exists(&id).unwrap())
    }

    fn load<'a>(
        &'a self,
        _: &'a OpContext<Test>,
        id: &'a RecordId,
    ) -> BoxFuture<'a, Result<ImmutableRef, StoreError>> {
        Box::pin(async move {
            let found = RefId::parse(id).and_then(|id| self.0.get(&id).ok());
            found.ok_or_else(|| StoreError::Gone(Arc::clone(id)))
        })
    }
}

fn linked(name: &str) -> KeyId {
    let hash = Digest::sha256(name);
    let mut value = [0; 32];
    value.copy_from_slice(&hash.hex().as_bytes()[..32]);
    KeyId::new(KeyKind::Linked, value)
}

fn link(op: &str, input: usize, selector: Option<&str>) -> Link {
    Link {
        input,
        output: 0,
        digest: CacheDigest::Fixed(Digest::sha256(op)),
        selector: selector.map(Digest::sha256),
    }
}

fn save(
    cache: &EngineCache<Results>,
    links: Vec<(KeyId, Link, KeyId)>,
    result: Option<(&ImmutableRef, Vec<KeyId>)>,
) {
    let wanted = result.as_ref().map(|(output, _)| output.id().to_string());
    let made = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
    let change = Change::<Test> { links, result: result.map(|(output, keys)| (output, keys, made)) };
    let id = cache.save(change).now_or_never().unwrap().unwrap();
    assert_eq!(id.as_deref(), wanted.as_deref());
}

#[tokio::test]
async fn keys_live_while_they_lead_to_something() {
    for fixture in fixtures() {
        let worker = &fixture.worker;
        let cache = EngineCache::new(worker.clone(), Results(worker.clone()));
        let store: &dyn CacheStore<Test> = &cache;
        let make = || worker.create(None, RefOptions::default()).unwrap().commit().unwrap();
        let (first, second) = (make(), make());
        let root = KeyId::root(&CacheDigest::Fixed(Digest::sha256("root")), 0);
        let other = KeyId::content(&Digest::sha256("content"));
        let random = KeyId::root(&CacheDigest::Random(Digest::sha256("local")), 0);
        let (middle, end) = (linked("middle"), linked("end"));
        save(
            &cache,
            vec![(root, link("a", 0, None), middle), (other, link("a", 1, Some("s")), middle)],
            None,
        );
        save(
            &cache,
            vec![(middle, link("b", 0, None), end), (random, link("b", 0, None), end)],
            Some((&first, vec![end])),
        );
        save(&cache, vec![], Some((&second, vec![root, random])));

        assert_eq!(store.links(&root, &link("a", 0, None)), [middle]);
        assert_eq!(store.links(&root, &link("a", 0, Some("s"))), []);
        assert_eq!(store.links(&other, &link("a", 1, Some("s"))), [middle]);
        assert!(!store.exists(&random), "what is random does not outlive the process");
        assert_eq!(store.backlinks(&end), [Backlink::of(middle, &link("b", 0, None))]);
        assert_eq!(store.backlinks(&middle).len(), 2);
        let records = store.records(&end);
        assert_eq!((records.len(), &*records[0].id), (1, first.id().as_str()));
        let since = records[0].created_at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_nanos(), 1_700_000_000_123_456_789);
        assert_eq!(store.keys_of(&records[0].id), [end]);

        // A pruned ref takes its results along, and these the keys that led only to them.
        let first_id = first.id().clone();
        drop(first);
        worker.prune(vec![PruneOptions::default()], |_| {}).await.unwrap();
        assert!(!worker.exists(&first_id).unwrap());
        for key in [&end, &middle, &other] {
            assert!(!store.exists(key), "{key}");
            assert!(store.backlinks(key).is_empty());
        }
        assert!(store.exists(&root), "it has a result of its own");
        assert_eq!(store.records(&root).len(), 1);
        cache.forget(second.id().as_str()).unwrap();
        assert!(!store.exists(&root));
    }
}
