//! A domain of fake ops, whose results say what they were made from.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use kiln_oci::Digest;
use tokio::sync::{Semaphore, mpsc};

use crate::sync::lock;
use crate::*;

#[derive(Debug)]
pub(crate) struct Fake;

impl Domain for Fake {
    type Op = FakeOp;
    type Output = Value;
    type Job = &'static str;
    type Error = FakeError;
    type CacheOpts = String;
    type Material = String;
}

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct FakeError {
    text: String,
    /// When it failed, by the world's clock.
    pub(crate) at: usize,
}

/// A run of an op.
#[derive(Debug, Clone)]
pub(crate) struct RunLog {
    pub(crate) digest: CacheDigest,
    pub(crate) seen: Vec<u64>,
    pub(crate) nonce: usize,
    pub(crate) ignored: bool,
    pub(crate) round: usize,
}

/// An op that runs now: what it does, and to which values.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Busy {
    digest: CacheDigest,
    inputs: Vec<(usize, Option<usize>)>,
    ignores: bool,
}

/// A result: numbered parts, of which an op may use one.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) parts: Arc<Vec<u64>>,
    _live: Arc<Live>,
}

#[derive(Debug)]
struct Live(Arc<World>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the fake ops have in common: counters.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// The names of ops that ran, in the order in which they started.
    pub(crate) ran: Mutex<Vec<String>>,
    pub(crate) maps: Mutex<Vec<String>>,
    pub(crate) hashed: Mutex<Vec<String>>,
    pub(crate) prepared: Mutex<Vec<String>>,
    /// Values that exist.
    pub(crate) live: AtomicIsize,
    /// Ops that run now, and the most that ever did.
    pub(crate) running: AtomicUsize,
    pub(crate) most: AtomicUsize,
    /// All runs that gave something.
    pub(crate) runs: Mutex<Vec<RunLog>>,
    pub(crate) round: AtomicUsize,
    clock: AtomicUsize,
    busy: Mutex<Vec<Busy>>,
    /// The first thing that was done twice at once.
    pub(crate) twice: Mutex<Option<String>>,
}

impl World {
    pub(crate) fn value(self: &Arc<Self>, parts: Vec<u64>) -> Value {
        self.live.fetch_add(1, Ordering::SeqCst);
        Value { parts: Arc::new(parts), _live: Arc::new(Live(self.clone())) }
    }

    pub(crate) fn tick(&self) -> usize {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// The names of ops that ran since this was last asked.
    pub(crate) fn take_ran(&self) -> Vec<String> {
        let mut ran = std::mem::take(&mut *lock(&self.ran));
        ran.sort();
        ran
    }
}

struct Running<'a> {
    world: &'a World,
    busy: Busy,
}

impl<'a> Running<'a> {
    /// One that does not ignore the cache should have joined any that does the same; one that does, any that does too.
    fn new(op: &'a FakeOp, ignores: bool, inputs: &[Value]) -> Self {
        let world = &*op.world;
        let now = world.running.fetch_add(1, Ordering::SeqCst) + 1;
        world.most.fetch_max(now, Ordering::SeqCst);
        let inputs =
            inputs.iter().zip(&op.inputs).map(|(v, i)| (Arc::as_ptr(&v.parts) as usize, i.part)).collect();
        let busy = Busy { digest: op.maps[0].clone(), inputs, ignores };
        let mut all = lock(&world.busy);
        let same =
            |b: &&Busy| (&b.digest, &b.inputs) == (&busy.digest, &busy.inputs) && (!ignores || b.ignores);
        if op.outputs == 1 && all.iter().any(|b| same(&b)) {
            lock(&world.twice).get_or_insert_with(|| format!("{} runs twice at once", op.name));
        }
        all.push(busy.clone());
        drop(all);
        Self { world, busy }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.world.running.fetch_sub(1, Ordering::SeqCst);
        let mut all = lock(&self.world.busy);
        if let Some(at) = all.iter().position(|b| *b == self.busy) {
            all.swap_remove(at);
        }
    }
}

type Sub = Arc<dyn Fn() -> (Graph<Fake>, Edge) + Send + Sync>;

/// A fake op. Its outputs' parts are hashes of `seed` and of what it sees of its inputs.
#[derive(Clone)]
pub(crate) struct FakeOp {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    pub(crate) maps: Vec<CacheDigest>,
    pub(crate) inputs: Vec<FakeInput>,
    pub(crate) outputs: usize,
    pub(crate) seed: u64,
    /// What exec waits for.
    pub(crate) gate: Option<Arc<Semaphore>>,
    pub(crate) fails: Option<Arc<AtomicBool>>,
    /// Fails when this is set, and unsets it.
    pub(crate) fails_once: Option<Arc<AtomicBool>>,
    pub(crate) map_fails: bool,
    pub(crate) panics: bool,
    pub(crate) permits: Option<Arc<Semaphore>>,
    pub(crate) sub: Option<Sub>,
    pub(crate) yields: usize,
    pub(crate) opts: Option<String>,
    /// Every run gives something new.
    pub(crate) nonce: Option<Arc<AtomicUsize>>,
}

/// How a fake op uses an input.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeInput {
    pub(crate) part: Option<usize>,
    pub(crate) by_content: bool,
    pub(crate) prepare: bool,
}

impl FakeInput {
    pub(crate) fn sees(&self, parts: &[u64]) -> u64 {
        match self.part {
            Some(part) => parts[part % parts.len()],
            None => hash(parts),
        }
    }
}

pub(crate) fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl FakeOp {
    /// What comes out: a part that is always the same, and two that depend on what was seen.
    pub(crate) fn made(seed: u64, output: usize, seen: &[u64], nonce: usize) -> Vec<u64> {
        vec![hash((seed, output)), hash((seed, output, seen, nonce)), hash((seen, nonce))]
    }

    fn error(&self, what: &str) -> FakeError {
        FakeError { text: format!("{} {what}", self.name), at: self.world.tick() }
    }

    async fn pause(&self) {
        for _ in 0..self.yields {
            tokio::task::yield_now().await;
        }
    }
}

impl Op<Fake> for FakeOp {
    async fn cache_map(
        &self,
        _cx: &OpContext<Fake>,
        index: usize,
    ) -> Result<(CacheMap<Fake>, MapsLeft), FakeError> {
        lock(&self.world.maps).push(self.name.clone());
        self.pause().await;
        if self.map_fails {
            return Err(self.error("has no map"));
        }
        let mut map = CacheMap::new(self.maps[index].clone(), self.inputs.len());
        for (to, from) in map.inputs.iter_mut().zip(&self.inputs) {
            to.selector = from.part.map(|p| Digest::sha256(format!("part {p}")));
            (to.by_content, to.prepare) = (from.by_content, from.prepare);
        }
        map.opts = self.opts.clone();
        map.materials = vec![self.name.clone()];
        let left = if index + 1 < self.maps.len() { MapsLeft::Some } else { MapsLeft::None };
        Ok((map, left))
    }

    async fn content_digest(
        &self,
        _cx: &OpContext<Fake>,
        input: usize,
        result: &Value,
    ) -> Result<Option<Digest>, FakeError> {
        lock(&self.world.hashed).push(self.name.clone());
        self.pause().await;
        Ok(Some(Digest::sha256(format!("content {}", self.inputs[input].sees(&result.parts)))))
    }

    async fn prepare(&self, cx: &OpContext<Fake>, input: usize, _result: &Value) -> Result<(), FakeError> {
        lock(&self.world.prepared).push(format!("{}:{input}", self.name));
        cx.progress().part("unpack").done();
        Ok(())
    }

    async fn exec(&self, cx: &OpContext<Fake>, inputs: Vec<Value>) -> Result<Vec<Value>, ExecError<Fake>> {
        lock(&self.world.ran).push(self.name.clone());
        let ignored = cx.options().ignore_cache;
        let _running = Running::new(self, ignored, &inputs);
        cx.progress().log(1, format!("{} runs", self.name));
        self.pause().await;
        if let Some(gate) = &self.gate {
            gate.acquire().await.map_err(|_| ExecError::new(self.error("has no gate")))?.forget();
        }
        assert!(!self.panics, "{} panics", self.name);
        let once = self.fails_once.as_ref().is_some_and(|f| f.swap(false, Ordering::SeqCst));
        if once || self.fails.as_ref().is_some_and(|f| f.load(Ordering::SeqCst)) {
            let error = self.error("failed");
            return Err(ExecError {
                error,
                inputs: inputs.into_iter().map(Some).collect(),
                mounts: Vec::new(),
            });
        }
        if let Some(sub) = &self.sub {
            let (graph, edge) = sub();
            let result = cx.build(graph, edge).await;
            return Ok(vec![result.map_err(|e| ExecError::new(self.error(&e.to_string())))?.output]);
        }
        assert_eq!(inputs.len(), self.inputs.len());
        let seen: Vec<u64> = self.inputs.iter().zip(&inputs).map(|(i, v)| i.sees(&v.parts)).collect();
        let nonce = self.nonce.as_ref().map_or(0, |n| n.fetch_add(1, Ordering::SeqCst) + 1);
        let outputs =
            (0..self.outputs).map(|o| self.world.value(Self::made(self.seed, o, &seen, nonce))).collect();
        let round = self.world.round.load(Ordering::SeqCst);
        lock(&self.world.runs).push(RunLog { digest: self.maps[0].clone(), seen, nonce, ignored, round });
        Ok(outputs)
    }

    async fn acquire(&self) -> Permit {
        match &self.permits {
            Some(permits) => permits.clone().acquire_owned().await.map(Permit::new).unwrap_or_default(),
            None => Permit::none(),
        }
    }
}

/// Builds graphs of fake ops.
pub(crate) struct Plan {
    pub(crate) world: Arc<World>,
    vertices: Vec<Vertex<Fake>>,
    by_name: HashMap<String, usize>,
}

impl Plan {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), vertices: Vec::new(), by_name: HashMap::new() }
    }

    /// Adds a vertex called `name` on output 0 of `inputs`. Digest, cache map and seed follow from the name.
    pub(crate) fn add(&mut self, name: &str, inputs: &[&str]) -> &mut Self {
        self.with(name, inputs, |_| {})
    }

    pub(crate) fn with(
        &mut self,
        name: &str,
        inputs: &[&str],
        change: impl FnOnce(&mut FakeOp),
    ) -> &mut Self {
        let mut op = FakeOp {
            world: self.world.clone(),
            name: name.to_owned(),
            maps: vec![Digest::sha256(format!("map {name}")).into()],
            inputs: vec![FakeInput::default(); inputs.len()],
            outputs: 1,
            seed: hash(name),
            gate: None,
            fails: None,
            fails_once: None,
            map_fails: false,
            panics: false,
            permits: None,
            sub: None,
            yields: 0,
            opts: None,
            nonce: None,
        };
        change(&mut op);
        let inputs: Vec<Edge> = inputs.iter().map(|i| self.edge(i)).collect();
        let parents: Vec<&str> = inputs.iter().map(|e| e.vertex.as_str()).collect();
        let vertex = Vertex {
            digest: Digest::sha256(format!("{name} on {}", parents.join(" "))),
            name: name.to_owned(),
            inputs,
            op: Arc::new(op),
            options: VertexOptions::default(),
        };
        self.by_name.insert(name.to_owned(), self.vertices.len());
        self.vertices.push(vertex);
        self
    }

    /// `name`, or `name:output`.
    pub(crate) fn edge(&self, name: &str) -> Edge {
        let (name, output) = name.split_once(':').unwrap_or((name, "0"));
        let vertex = &self.vertices[self.by_name[name]];
        Edge::new(vertex.digest.clone(), output.parse().unwrap())
    }

    /// Changes the vertex that was added last.
    pub(crate) fn last(&mut self) -> &mut Vertex<Fake> {
        self.vertices.last_mut().unwrap()
    }

    pub(crate) fn ignore(&mut self) -> &mut Self {
        self.last().options.ignore_cache = true;
        self
    }

    pub(crate) fn graph(&self) -> Graph<Fake> {
        Graph::new(self.vertices.clone()).unwrap()
    }

    pub(crate) async fn build(
        &self,
        job: &Job<Fake>,
        name: &str,
    ) -> Result<CachedResult<Fake>, SolveError<Fake>> {
        job.build(self.graph(), self.edge(name)).await
    }
}

/// A memory store that counts loads, and may lose what it promised.
pub(crate) struct Counting {
    pub(crate) inner: MemoryStore<Fake>,
    pub(crate) loads: AtomicUsize,
    pub(crate) saves: AtomicUsize,
    pub(crate) lose: AtomicBool,
    /// Whether look-ups panic.
    pub(crate) panics: AtomicBool,
    /// Loses one record in so many loads; 0 for none.
    pub(crate) lose_one_in: AtomicUsize,
    loaded: AtomicUsize,
    pub(crate) parents: Mutex<Vec<(KeyId, Record, Value)>>,
    pub(crate) yields: AtomicUsize,
}

impl Counting {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(name),
            loads: AtomicUsize::new(0),
            saves: AtomicUsize::new(0),
            lose: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            lose_one_in: AtomicUsize::new(0),
            loaded: AtomicUsize::new(0),
            parents: Mutex::default(),
            yields: AtomicUsize::new(0),
        })
    }

    async fn pause(&self) {
        for _ in 0..self.yields.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }

    /// Takes over everything that `from` has, links and results.
    pub(crate) async fn copy(&self, from: &Self) {
        self.inner.save(Change { links: from.inner.all_links(), result: None }).await.unwrap();
        for id in from.inner.record_ids() {
            let keys = from.inner.keys_of(&id);
            let created_at =
                from.inner.records(&keys[0]).into_iter().find(|r| r.id == id).unwrap().created_at;
            let output = from.inner.peek(&keys[0], &id).unwrap();
            let result = Some((&output, keys, created_at));
            self.inner.save(Change { links: Vec::new(), result }).await.unwrap();
        }
    }

    /// Addresses of the values that it keeps.
    pub(crate) fn kept(&self) -> HashSet<usize> {
        let ids = self.inner.record_ids().into_iter();
        let values = ids.filter_map(|id| self.inner.peek(self.inner.keys_of(&id).first()?, &id));
        values.map(|v| Arc::as_ptr(&v.parts) as usize).collect()
    }
}

impl CacheStore<Fake> for Counting {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn exists(&self, key: &KeyId) -> bool {
        assert!(!self.panics.load(Ordering::SeqCst), "the store panics");
        self.inner.exists(key)
    }

    fn links(&self, from: &KeyId, link: &Link) -> Vec<KeyId> {
        self.inner.links(from, link)
    }

    fn records(&self, key: &KeyId) -> Vec<Record> {
        self.inner.records(key)
    }

    fn load<'a>(
        &'a self,
        cx: &'a OpContext<Fake>,
        key: KeyId,
        record: &'a Record,
    ) -> BoxFuture<'a, Result<Loaded<Fake>, StoreError>> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            self.pause().await;
            let one_in = self.lose_one_in.load(Ordering::SeqCst);
            let unlucky =
                one_in > 0 && hash(self.loaded.fetch_add(1, Ordering::SeqCst)).is_multiple_of(one_in as u64);
            if unlucky || self.lose.load(Ordering::SeqCst) {
                self.inner.forget(&record.id);
            }
            let mut loaded = self.inner.load(cx, key, record).await?;
            loaded.parents = lock(&self.parents).clone();
            Ok(loaded)
        })
    }

    fn save<'a>(&'a self, change: Change<'a, Fake>) -> BoxFuture<'a, Result<Option<RecordId>, StoreError>> {
        self.saves.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            self.pause().await;
            self.inner.save(change).await
        })
    }

    fn backlinks(&self, key: &KeyId) -> Vec<Backlink> {
        self.inner.backlinks(key)
    }

    fn keys_of(&self, record: &RecordId) -> Vec<KeyId> {
        self.inner.keys_of(record)
    }
}

/// An engine on a counting store.
pub(crate) struct Bench {
    pub(crate) world: Arc<World>,
    pub(crate) store: Arc<Counting>,
    pub(crate) engine: Engine<Fake>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let store = Counting::new("main");
        Self { world: Arc::default(), engine: Engine::new(store.clone()), store }
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan::new(&self.world)
    }

    pub(crate) fn job(&self) -> Job<Fake> {
        self.engine.new_job("job", "job", Vec::new(), Arc::new(|_: Event| {}))
    }

    /// A job with its events.
    pub(crate) fn watched(&self, name: &'static str) -> (Job<Fake>, mpsc::UnboundedReceiver<Event>) {
        let (tx, rx) = mpsc::unbounded_channel();
        let sink = move |event: Event| {
            tx.send(event).ok();
        };
        (self.engine.new_job(name, name, Vec::new(), Arc::new(sink)), rx)
    }

    pub(crate) fn loads(&self) -> usize {
        self.store.loads.swap(0, Ordering::SeqCst)
    }
}
