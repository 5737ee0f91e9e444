//! Rounds of jobs on one engine.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::fuzz::world::{Rng, Universe};
use crate::fuzz::{Broken, naive};
use crate::sync::lock;
use crate::tests::fake::{Counting, Fake, World};
use crate::{
    CacheStore, Decision, Edge, Engine, Event, Graph, Job, ProgressSink, SolveCause, SolveError, VertexEvent,
};

/// How often the test may yield before it is said to hang.
const PATIENCE: usize = 100_000;

/// The first thing that went wrong.
type Complaints = Arc<Mutex<Option<String>>>;

/// Decisions by edge and time.
type Judged = Arc<Mutex<HashSet<(Edge, SystemTime)>>>;

fn complain(complaints: &Complaints, what: impl FnOnce() -> String) {
    lock(complaints).get_or_insert_with(what);
}

/// Plays one seed.
///
/// # Errors
/// What the engine did wrong.
pub(super) fn fuzz(seed: u64, broken: Option<Broken>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        tokio::select! {
            biased;
            result = play(seed, broken) => result,
            () = patience() => Err("it hangs".to_owned()),
        }
    })
}

async fn patience() {
    for _ in 0..PATIENCE {
        tokio::task::yield_now().await;
    }
}

async fn rest(yields: usize) {
    for _ in 0..yields {
        tokio::task::yield_now().await;
    }
}

async fn play(seed: u64, broken: Option<Broken>) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let universe = Universe::new(&mut rng);
    let world: Arc<World> = Arc::default();
    let store = Counting::new("main");
    store.yields.store(rng.below(3), Ordering::SeqCst);
    let engine = Engine::broken(store.clone(), broken);
    let show = std::env::var("KILN_FUZZ_SHOW").is_ok();
    for (at, node) in universe.nodes.iter().enumerate().filter(|_| show) {
        println!("v{at}: {node:?}");
    }
    let complaints = Complaints::default();
    let imported = Counting::new("imported");
    for round in 0..3 {
        world.round.store(round, Ordering::SeqCst);
        let (lossy, ignoring) = (rng.one_in(3), rng.one_in(2));
        let judges = !ignoring && (!lossy || universe.nodes.iter().all(|n| n.function.impure.is_none()));
        store.lose_one_in.store(if lossy { 3 } else { 0 }, Ordering::SeqCst);
        universe.nodes.iter().for_each(|n| n.fails.store(rng.one_in(25), Ordering::SeqCst));
        let stage = Stage {
            universe: &universe,
            world: &world,
            store: &store,
            imported: &imported,
            engine: &engine,
            round,
            complaints: &complaints,
            judged: Arc::default(),
            show,
            ignoring,
            judges,
        };
        let jobs: Vec<_> = (0..1 + rng.below(4)).map(|_| stage.play_job(Rng::new(rng.next()))).collect();
        futures::future::join_all(jobs).await;
        stage.check_nothing_left().await;
        if !lossy {
            stage.check_rebuild(&mut rng).await;
        }
        if let Some(what) = lock(&complaints).take() {
            return Err(format!("round {round}: {what}"));
        }
        if round == 0 {
            imported.copy(&store).await;
        }
        for id in store.inner.record_ids() {
            if rng.one_in(3) {
                store.inner.forget(&id);
            }
        }
    }
    Ok(())
}

/// Where the jobs of a round play.
struct Stage<'a> {
    universe: &'a Universe,
    world: &'a Arc<World>,
    store: &'a Arc<Counting>,
    imported: &'a Arc<Counting>,
    engine: &'a Engine<Fake>,
    round: usize,
    complaints: &'a Complaints,
    judged: Judged,
    show: bool,
    /// Whether some jobs ignore the cache.
    ignoring: bool,
    /// Whether decisions to run are checked. Not where a vertex may get a second key while another job still has its
    /// first, by a new result or by an import: what follows from the second is no match for that job, though the
    /// definition leads there.
    judges: bool,
}

/// A job with what it was told.
struct Told {
    job: Job<Fake>,
    graph: Arc<Graph<Fake>>,
    ignore: Vec<bool>,
    salt: usize,
    began: usize,
    ear: Arc<Ear>,
}

/// Listens to a job's events.
struct Ear {
    label: Option<String>,
    graph: Arc<Graph<Fake>>,
    store: Arc<Counting>,
    complaints: Complaints,
    /// The decisions that were judged, when they are to be.
    judged: Option<Judged>,
    vertices: Mutex<HashMap<String, VertexEvent>>,
}

impl ProgressSink for Ear {
    fn event(&self, event: Event) {
        match event {
            Event::Vertex(v) => {
                if v.completed.is_some() && v.started.is_none() {
                    complain(&self.complaints, || format!("{} completed before it started", v.name));
                }
                if let Some(label) = &self.label {
                    println!(
                        "{label}: {} started {:?} completed {:?} error {:?} cached {}",
                        v.name,
                        v.started.is_some(),
                        v.completed.is_some(),
                        v.error,
                        v.cached
                    );
                }
                lock(&self.vertices).insert(v.digest.to_string(), v);
            }
            Event::Decision(d) => self.judge(&d),
            _ => {}
        }
    }
}

impl Ear {
    /// A job that comes late is told of old decisions, which are not to be judged by what is there now.
    fn judge(&self, decision: &Decision) {
        if let Some(label) = &self.label {
            println!("{label}: {} {:?} {:?}", decision.name, decision.outcome, decision.inputs);
        }
        let Some(judged) = &self.judged else { return };
        if !lock(judged).insert((decision.edge.clone(), decision.time)) {
            return;
        }
        if let Err(what) = naive::may_run(decision, &self.graph, &[&*self.store as &dyn CacheStore<Fake>]) {
            complain(&self.complaints, || what);
        }
    }
}

impl Stage<'_> {
    fn open(&self, salt: usize, ignore: Vec<bool>, imports: bool) -> Told {
        let graph = Arc::new(self.universe.graph(self.world, salt, &ignore));
        let began = self.world.tick();
        if self.show {
            println!("round {}: job {began} salt {salt} imports {imports} ignores {ignore:?}", self.round);
        }
        let ear = Arc::new(Ear {
            label: self.show.then(|| format!("round {}: job {began}", self.round)),
            graph: graph.clone(),
            store: self.store.clone(),
            complaints: self.complaints.clone(),
            judged: self.judges.then(|| self.judged.clone()),
            vertices: Mutex::default(),
        });
        let stores: Vec<Arc<dyn CacheStore<Fake>>> =
            if imports { vec![self.imported.clone()] } else { Vec::new() };
        let job = self.engine.new_job("job", "job", stores, ear.clone());
        Told { job, graph, ignore, salt, began, ear }
    }

    async fn play_job(&self, mut rng: Rng) {
        rest(rng.below(60)).await;
        let ignoring = self.ignoring && rng.one_in(2);
        let ignore = self.universe.nodes.iter().map(|_| ignoring && rng.one_in(3)).collect();
        let told = self.open(rng.below(2), ignore, rng.one_in(3) && !self.judges);
        let builds: Vec<_> =
            (0..1 + rng.below(3)).map(|_| self.play_build(&told, Rng::new(rng.next()))).collect();
        futures::future::join_all(builds).await;
        rest(rng.below(20)).await;
        let ear = told.ear.clone();
        match rng.one_in(2) {
            true => told.job.close().await,
            false => drop(told.job),
        }
        self.settle().await;
        let open: Vec<String> = {
            let vertices = lock(&ear.vertices);
            let open = vertices.values().filter(|v| v.started.is_some() && v.completed.is_none());
            open.map(|v| v.name.to_string()).collect()
        };
        if !open.is_empty() {
            complain(self.complaints, || format!("{open:?} never completed for a job that is gone"));
        }
    }

    async fn play_build(&self, told: &Told, mut rng: Rng) {
        rest(rng.below(30)).await;
        let at = rng.below(self.universe.nodes.len());
        let output = rng.below(self.universe.nodes[at].function.outputs);
        let edge = Edge::new(self.universe.digest(at, told.salt), output);
        let graph = Graph::new(told.graph.vertices().to_vec()).unwrap();
        let build = told.job.build(graph, edge);
        if rng.one_in(4) {
            let patience = rng.below(40);
            tokio::select! {
                biased;
                _ = build => {}
                () = rest(patience) => {}
            }
            return;
        }
        match build.await {
            Ok(result) => self.check_value(told, at, output, &result.output.parts),
            Err(error) => self.check_error(told, &error),
        }
    }

    fn check_value(&self, told: &Told, at: usize, output: usize, parts: &[u64]) {
        let values = naive::values(self.universe, self.world, &told.ignore, self.round, at);
        if let Some(values) = values
            && !values.iter().any(|v| v[output] == parts)
        {
            complain(self.complaints, || format!("v{at}:{output} is none of {} right values", values.len()));
        }
    }

    /// A build fails only when one of its ops failed, and not before the job began.
    fn check_error(&self, told: &Told, error: &SolveError<Fake>) {
        let own = error.vertex.as_ref().is_some_and(|v| told.graph.get(v).is_some());
        match &*error.cause {
            SolveCause::Exec { error, .. } if own && error.at >= told.began => {}
            SolveCause::Exec { error, .. } if own => {
                complain(self.complaints, || {
                    format!("{error} at {}, before the job ({})", error.at, told.began)
                });
            }
            _ => complain(self.complaints, || format!("an error out of nothing: {error}")),
        }
    }

    async fn something_runs(&self, patience: usize) {
        while self.world.running.load(Ordering::SeqCst) == 0 {
            rest(1).await;
        }
        rest(patience).await;
    }

    async fn settle(&self) {
        for _ in 0..50 {
            rest(5).await;
            if self.world.running.load(Ordering::SeqCst) == 0 {
                return;
            }
        }
    }

    async fn check_nothing_left(&self) {
        rest(50).await;
        let census = self.engine.census().await;
        if census != Default::default() {
            complain(self.complaints, || format!("left behind: {census:?}"));
        }
        let (running, live) =
            (self.world.running.load(Ordering::SeqCst), self.world.live.load(Ordering::SeqCst));
        let kept = self.store.kept().union(&self.imported.kept()).count();
        if running != 0 || live != kept as isize {
            complain(self.complaints, || format!("{running} ops run, {live} values live, {kept} are kept"));
        }
        if let Some(twice) = lock(&self.world.twice).take() {
            complain(self.complaints, || twice);
        }
    }

    /// What was just built is found again: nothing runs. And what nobody wants any more stops.
    async fn check_rebuild(&self, rng: &mut Rng) {
        self.universe.nodes.iter().for_each(|n| n.fails.store(false, Ordering::SeqCst));
        let at = rng.below(self.universe.nodes.len());
        for salt in [0, 1, 0] {
            let told = self.open(salt, vec![false; self.universe.nodes.len()], false);
            let edge = Edge::new(self.universe.digest(at, salt), 0);
            let graph = Graph::new(told.graph.vertices().to_vec()).unwrap();
            self.world.take_ran();
            match told.job.build(graph, edge).await {
                Ok(result) => self.check_value(&told, at, 0, &result.output.parts),
                Err(error) => self.check_error(&told, &error),
            }
            let ran: Vec<String> =
                self.world.take_ran().into_iter().filter(|name| !self.universe.is_passing(name)).collect();
            if salt == 1 && !ran.is_empty() {
                complain(self.complaints, || format!("a rebuild of v{at} ran {ran:?}"));
            }
            told.job.close().await;
        }
        self.check_cancel(rng).await;
        self.check_nothing_left().await;
    }

    /// A build that is dropped leaves nothing running, though its job stays.
    async fn check_cancel(&self, rng: &mut Rng) {
        let at = rng.below(self.universe.nodes.len());
        let told = self.open(0, vec![true; self.universe.nodes.len()], false);
        let graph = Graph::new(told.graph.vertices().to_vec()).unwrap();
        let build = told.job.build(graph, Edge::new(self.universe.digest(at, told.salt), 0));
        let patience = rng.below(4);
        tokio::select! {
            biased;
            _ = build => {}
            () = self.something_runs(patience) => {}
        }
        rest(10).await;
        let before = lock(&self.world.ran).len();
        rest(60).await;
        let running = self.world.running.load(Ordering::SeqCst);
        let began = lock(&self.world.ran).len() - before;
        if running + began != 0 {
            complain(self.complaints, || format!("{running} ops run, {began} began that nobody wants"));
        }
        told.job.close().await;
    }
}
