//! The harness, and a small root to run things in.

use std::future::Future;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kiln_executor::{
    Container, EmbeddedExecutor, Executor, ExecutorConfig, Exit, Held, Mount, MountSource, Network, Output,
    OutputStream, ProcessIo, ProcessSpec, Resources, Result, RootSpec, RunSpec, Security, TmpfsSpec, Tree,
};
use kiln_store::{MountSpec, OverlayUpper};

/// A test: its name and what it does.
pub(crate) type Test = (&'static str, fn(Arc<Bench>) -> Pin<Box<dyn Future<Output = ()>>>);

/// Makes a [`Test`] of an async function.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::support::Test] =
            &[$((stringify!($name), |bench| Box::pin($name(bench)))),*];
    };
}

const BUSYBOX: &str = "/bin/busybox";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn run_all(groups: &[&[Test]]) -> ExitCode {
    if !Path::new(BUSYBOX).exists() {
        println!("skipped: {BUSYBOX} is missing (Debian: busybox-static)");
        return ExitCode::SUCCESS;
    }
    if !is_root() {
        println!("skipped: containers need root");
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bench = Arc::new(runtime.block_on(async { Bench::new() }));
    let mut failed = Vec::new();
    for (name, test) in groups.iter().copied().flatten() {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let start = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(60), test(bench.clone())).await.expect("in time");
            });
        }));
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{name}: {verdict} ({:.0?})", start.elapsed());
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    runtime.block_on(bench.executor.shutdown());
    assert_eq!(mounts_below(bench.folder()), [""; 0], "mounts are left on the host");
    assert_eq!(helpers(), 0, "helpers are left");
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("failed: {failed:?}");
        ExitCode::FAILURE
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t"))
}

/// Mounts of the host that have to do with `folder`.
pub(crate) fn mounts_below(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|line| line.contains(folder.to_str().unwrap())).map(str::to_owned).collect()
}

/// Whether this machine has any cgroup hierarchy.
pub(crate) fn has_cgroups() -> bool {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - cgroup")
}

/// Children and further descendants of this process that are the runtime's.
pub(crate) fn helpers() -> usize {
    descendants().len()
}

/// Descendants that are no helpers: processes of containers that run.
pub(crate) fn strays() -> Vec<u32> {
    let helper = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.is_empty() || name.trim() == "kiln-runtime"
    };
    descendants().into_iter().filter(|pid| !helper(pid)).collect()
}

/// Waits until no process of a container is left.
pub(crate) async fn no_strays() {
    for _ in 0..100 {
        if strays().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", strays());
}

/// Descendants of this process.
pub(crate) fn descendants() -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let parent: u32 = rest.split(' ').nth(1).unwrap().parse().unwrap();
        parents.push((pid, parent));
    }
    let mut found = vec![std::process::id()];
    let mut index = 0;
    while index < found.len() {
        let parent = found[index];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        index += 1;
    }
    found.remove(0);
    found
}

/// An executor and a root.
pub(crate) struct Bench {
    pub(crate) executor: EmbeddedExecutor,
    folder: tempfile::TempDir,
    next: AtomicU64,
}

/// How a process ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Self {
            executor: EmbeddedExecutor::new(ExecutorConfig::default()).unwrap(),
            folder,
            next: AtomicU64::new(0),
        };
        fill_root(&bench.lower());
        bench
    }

    /// The folder of everything.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the root's files, which no container writes to.
    pub(crate) fn lower(&self) -> PathBuf {
        self.folder.path().join("lower")
    }

    /// A new empty folder.
    pub(crate) fn fresh(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(format!("{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// An overlay over `lowers`, and its upper folder.
    pub(crate) fn overlay(&self, lowers: Vec<PathBuf>) -> (MountSpec, PathBuf) {
        let folder = self.fresh();
        let (upper, work) = (folder.join("fs"), folder.join("work"));
        for folder in [&upper, &work] {
            std::fs::create_dir(folder).unwrap();
        }
        let layer = OverlayUpper { upper: upper.clone(), work, volatile: true };
        (MountSpec::Overlay { lowers, upper: Some(layer) }, upper)
    }

    /// A container that runs `args` in a new overlay.
    pub(crate) fn spec(&self, args: &[&str]) -> RunSpec {
        let (root, _) = self.overlay(vec![self.lower()]);
        RunSpec {
            id: format!("test-{}", self.next.fetch_add(1, Ordering::Relaxed)),
            root: RootSpec { tree: Tree::Mount(root), readonly: false },
            mounts: Vec::new(),
            process: ProcessSpec {
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                env: vec![PATH.to_owned()],
                ..ProcessSpec::default()
            },
            hostname: None,
            extra_hosts: Vec::new(),
            network: Network::Host,
            security: Security::Sandbox,
            rlimits: Vec::new(),
            resources: Resources::default(),
            cgroup_parent: None,
            remove_mount_point_parents: true,
            samples: false,
            devices: Vec::new(),
            groups: Vec::new(),
            hooks: Vec::new(),
            held: Held::default(),
        }
    }

    /// A container that runs a shell script.
    pub(crate) fn script(&self, script: &str) -> RunSpec {
        self.spec(&["/bin/sh", "-c", script])
    }

    /// Runs a container to its end.
    pub(crate) async fn run(&self, spec: RunSpec) -> Ran {
        self.try_run(spec).await.unwrap()
    }

    pub(crate) async fn try_run(&self, spec: RunSpec) -> Result<Ran> {
        run_on(&self.executor, spec).await
    }

    /// Runs a script, which must succeed, for its output.
    pub(crate) async fn output(&self, script: &str) -> String {
        let ran = self.run(self.script(script)).await;
        assert_eq!(ran.exit.code, 0, "{script}: {ran:?}");
        ran.out
    }

    /// Starts a script that nobody waits for.
    pub(crate) async fn start(&self, script: &str) -> Container {
        self.executor.start(self.script(script), ProcessIo::default()).await.unwrap()
    }
}

/// Runs a container to its end.
pub(crate) async fn run_on(executor: &dyn Executor, spec: RunSpec) -> Result<Ran> {
    let (io, output) = ProcessIo::output(16);
    let container = executor.start(spec, io).await?;
    let collected = tokio::spawn(collect(output));
    let exit = container.wait().await?;
    let (out, err) = collected.await.unwrap();
    Ok(Ran { exit, out, err })
}

/// Waits until the container has written `words` to its standard output; what it has written up to then.
pub(crate) async fn until(output: &mut tokio::sync::mpsc::Receiver<Output>, words: &str) -> String {
    let mut out = String::new();
    while !out.contains(words) {
        let Output { data, .. } = output.recv().await.unwrap_or_else(|| panic!("{words:?} not in {out:?}"));
        out += &String::from_utf8_lossy(&data);
    }
    out
}

/// All output, by stream.
pub(crate) async fn collect(mut output: tokio::sync::mpsc::Receiver<Output>) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(Output { stream, data }) = output.recv().await {
        match stream {
            OutputStream::Stdout => out.extend_from_slice(&data),
            OutputStream::Stderr => err.extend_from_slice(&data),
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
}

/// A mount of an empty tmpfs.
pub(crate) fn tmpfs(dest: &str) -> Mount {
    Mount { dest: dest.to_owned(), source: MountSource::Tmpfs(TmpfsSpec::default()), readonly: false }
}

/// A mount of a host's folder.
pub(crate) fn bind(dest: &str, path: &Path) -> Mount {
    let tree = Tree::Mount(MountSpec::Bind { path: path.to_owned(), read_only: false });
    Mount {
        dest: dest.to_owned(),
        source: MountSource::Tree { tree, selector: String::new() },
        readonly: false,
    }
}

fn fill_root(root: &Path) {
    for folder in ["bin", "etc", "tmp", "root", "home/app", "usr/bin"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let list = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .stdin(std::process::Stdio::piped())
        .output()
        .unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd =
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\napp:x:1000:1000::/home/app:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\ndaemon:x:1:\nwheel:x:10:root,app\napp:x:1000:\n")
        .unwrap();
}
