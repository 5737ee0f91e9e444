//! SIGKILL at random moments of a build. Nothing is left of the daemon, and the next one on the same folder builds the same
//! layers as one that was never killed.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use kiln_proto::control::{PruneRequest, control_client::ControlClient};

use crate::support::{
    Build, Context, Daemon, Image, Left, Random, Registry, Running, Watch, alone, assert_sound, connect,
    folder_for, layers, setting,
};

/// What is built, and what comes of it when nothing is killed.
struct Subject {
    registry: Registry,
    /// The layers for each version of the context.
    layers: [Vec<String>; 2],
    /// How long each phase took.
    lengths: Vec<(Phase, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Context,
    Pull,
    Run,
    Commit,
    Export,
    Prune,
}

fn dockerfile(registry: &Registry) -> String {
    let at = &registry.address;
    // Each mark tells the test where the build is.
    let mark = |word: &str| format!("wget -q -O /dev/null http://{at}/mark/{word}");
    let (run, ran, second, done) = (mark("run"), mark("ran"), mark("second"), mark("done"));
    format!(
        "FROM {at}/base:latest\n\
         COPY . /context/\n\
         ARG ROUND\n\
         RUN {run}; (trap '' TERM; setsid sleep 31415) & \
         for i in $(seq 40); do mkdir -p /made/$i && seq $((i * 100)) > /made/$i/file; done; \
         rm -rf /layer0; mv /context/folder1 /context/moved; {ran}\n\
         RUN {second}; cat /made/*/file > /all; cp -a /context/moved /copied; {done}\n"
    )
}

/// A folder to build in: with a Dockerfile, a configuration, and no state yet.
fn folder(registry: &Registry) -> tempfile::TempDir {
    let folder = folder_for(registry);
    std::fs::write(folder.path().join("Dockerfile"), dockerfile(registry)).unwrap();
    folder
}

/// What is built, made once for all tests. The caller is alone.
fn subject() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| {
        let registry = Registry::start(&Image::new());
        let mut lengths = Vec::new();
        let layers = [0, 1].map(|version| {
            let folder = folder(&registry);
            Context::write(folder.path(), version);
            let daemon = Daemon::start(folder.path());
            let archive = folder.path().join("out.tar");
            registry.forget();
            let watch = Watch::new(folder.path());
            let build = Build::new(folder.path()).archive(&archive).start(&daemon.address());
            let context = watch.wait();
            let seen = build.end();
            assert!(seen.success, "the build fails: {:#?}", seen.other);
            let mark = |word| registry.mark(word).unwrap();
            lengths = vec![
                (Phase::Context, watch.ended().unwrap() - context),
                (Phase::Pull, mark("run") - mark("layer")),
                (Phase::Run, mark("ran") - mark("run")),
                (Phase::Commit, mark("second") - mark("ran")),
                (Phase::Export, mark("done").elapsed()),
            ];
            let start = Instant::now();
            assert!(prune(&daemon, |_| true) > 3, "a prune removes what was built");
            lengths.push((Phase::Prune, start.elapsed()));
            daemon.stop();
            assert_sound(&folder.path().join("root"));
            layers(&archive)
        });
        assert_eq!(layers[0].len(), 7);
        println!("undisturbed: {lengths:?}");
        Subject { registry, layers, lengths }
    })
}

/// Prunes everything and returns the number of records that went; gives up early when `go_on` says so of their number so far.
fn prune(daemon: &Daemon, go_on: impl Fn(usize) -> bool) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let request = PruneRequest { all: true, ..PruneRequest::default() };
        let mut removed =
            ControlClient::new(connect(&daemon.address()).await).prune(request).await.unwrap().into_inner();
        let mut count = 0;
        while let Some(_record) = removed.message().await.unwrap() {
            count += 1;
            if !go_on(count) {
                break;
            }
        }
        count
    })
}

impl Phase {
    /// Waits until the build is inside.
    fn begin(self, registry: &Registry, watch: &Watch) {
        let _begun = match self {
            Self::Context => watch.wait(),
            Self::Pull => registry.wait("layer"),
            Self::Run => registry.wait("run"),
            Self::Commit => registry.wait("ran"),
            Self::Export => registry.wait("done"),
            Self::Prune => unreachable!("no build prunes"),
        };
    }

    /// Whether the build is past it.
    fn is_over(self, registry: &Registry, watch: &Watch, build: &Running) -> bool {
        let passed = |word| registry.mark(word).is_some();
        match self {
            Self::Context => watch.ended().is_some(),
            Self::Pull => passed("run"),
            Self::Run => passed("ran"),
            Self::Commit => passed("second"),
            Self::Export => build.is_over(),
            Self::Prune => unreachable!("no build prunes"),
        }
    }
}

/// One folder, whose daemons are killed again and again.
struct Bench<'a> {
    subject: &'a Subject,
    folder: tempfile::TempDir,
    phase: Phase,
    random: Random,
    round: u64,
    version: u64,
}

impl Bench<'_> {
    fn build(&self) -> Build {
        let build = Build::new(self.folder.path()).arg(format!("--opt=build-arg:ROUND={}", self.round));
        build.archive(&self.folder.path().join("out.tar"))
    }

    fn set_version(&mut self, version: u64) {
        self.version = version;
        Context::write(self.folder.path(), version);
    }

    /// Kills a daemon within a moment of `length`; true when that was inside the phase.
    fn kill(&mut self, daemon: Daemon, length: Duration) -> bool {
        let registry = &self.subject.registry;
        registry.forget();
        let moment = self.random.moment(length);
        if self.phase == Phase::Prune {
            // How many are reported before the kill is one more thing to leave to chance.
            let enough = 1 + self.random.below(4) as usize;
            let count = prune(&daemon, |count| count < enough);
            std::thread::sleep(moment);
            let pid = daemon.kill();
            println!("  killed {pid} {moment:?} after {count} records");
            return true;
        }
        let watch = Watch::new(self.folder.path());
        let build = self.build().start(&daemon.address());
        self.phase.begin(registry, &watch);
        std::thread::sleep(moment);
        let inside = !self.phase.is_over(registry, &watch, &build);
        let pid = daemon.kill();
        let seen = build.end();
        if seen.success {
            // The kill came after the build, or between the answer and the client's last word.
            let late = !inside || self.phase == Phase::Export;
            assert!(late, "a client takes the end of its daemon for success");
            self.check_layers();
        }
        let inside = inside && !seen.success;
        println!("  killed {pid} after {moment:?}, inside: {inside}");
        inside
    }

    /// One round; true when the kill was inside the phase.
    fn round(&mut self, length: Duration) -> bool {
        self.round += 1;
        let (daemon, _) = Daemon::swept(self.folder.path());
        match self.phase {
            // Half of the transfers make a tree, half bring one up to date.
            Phase::Context if self.random.below(2) == 0 => self.set_version(1 - self.version),
            Phase::Run | Phase::Commit | Phase::Prune => {}
            Phase::Export if self.random.below(2) == 0 => {}
            _ => drop(prune(&daemon, |_| true)),
        }
        if self.phase == Phase::Prune {
            self.build().run(&daemon.address());
        }
        let pid = daemon.pid();
        let inside = self.kill(daemon, length);
        Left::no_processes();
        if self.random.below(4) == 0 {
            let early = Daemon::spawn(self.folder.path(), &self.folder.path().join("root"));
            std::thread::sleep(self.random.moment(Duration::from_millis(100)));
            early.kill();
            Left::no_processes();
        }
        self.check(pid);
        inside
    }

    /// What came out is what always came out.
    fn check_layers(&self) {
        let built = layers(&self.folder.path().join("out.tar"));
        assert_eq!(built, self.subject.layers[self.version as usize], "version {}", self.version);
    }

    /// The next daemon finds everything in order, and builds what was always built.
    fn check(&mut self, killed: u32) {
        let (daemon, found) = Daemon::swept(self.folder.path());
        assert!(found.contains("missing: []"), "{found}");
        Left::no_mounts(self.folder.path());
        Left::no_cgroups(killed);
        if self.random.below(2) == 0 {
            self.set_version(1 - self.version);
        }
        self.build().run(&daemon.address());
        self.check_layers();
        daemon.stop();
        Left::no_processes();
        assert_sound(&self.folder.path().join("root"));
    }
}

/// Kills a daemon so often inside `phase`.
fn kill_inside(phase: Phase) {
    let Some(_alone) = alone() else { return };
    let subject = subject();
    let kills = setting("KILN_TEST_KILLS", 1);
    let folder = folder(&subject.registry);
    let mut bench = Bench { subject, folder, phase, random: Random::new(), round: 0, version: 0 };
    bench.set_version(0);
    let mut length = subject.lengths.iter().find(|(known, _)| *known == phase).unwrap().1;
    // A build from nothing, so that there is something to lose.
    let daemon = Daemon::start(bench.folder.path());
    bench.build().run(&daemon.address());
    daemon.stop();
    let (mut inside, mut rounds) = (0, 0);
    while inside < kills {
        rounds += 1;
        assert!(rounds < 5 * kills + 10, "only {inside} of {rounds} kills hit the phase");
        if bench.round(length) {
            inside += 1;
        } else {
            length = length.mul_f32(0.9);
        }
    }
    println!("{phase:?}: {inside} of {rounds} kills inside");
}

#[test]
fn killed_while_a_context_comes() {
    kill_inside(Phase::Context);
}

#[test]
fn killed_while_an_image_is_pulled() {
    kill_inside(Phase::Pull);
}

#[test]
fn killed_while_a_step_runs() {
    kill_inside(Phase::Run);
}

#[test]
fn killed_while_a_step_is_committed() {
    kill_inside(Phase::Commit);
}

#[test]
fn killed_while_a_result_is_exported() {
    kill_inside(Phase::Export);
}

#[test]
fn killed_while_records_are_pruned() {
    kill_inside(Phase::Prune);
}
