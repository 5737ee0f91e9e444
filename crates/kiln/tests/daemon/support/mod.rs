//! What the tests share: a daemon that is a process, clients, a registry, and eyes for what is left behind.

mod archive;
mod bench;
mod client;
mod context;
mod daemon;
mod image;
mod left;
mod registry;
mod sound;
mod tar;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub(crate) use archive::layers;
pub(crate) use bench::Bench;
pub(crate) use client::{Build, Running, buildctl};
pub(crate) use context::{Context, Watch};
pub(crate) use daemon::Daemon;
pub(crate) use image::{Image, gzip};
pub(crate) use left::{Left, descendants};
pub(crate) use registry::{Manner, Pushed, Registry};
pub(crate) use sound::assert_sound;
pub(crate) use tar::Tar;

/// The program under test, which is daemon and client.
pub(crate) const KILN: &str = env!("CARGO_BIN_EXE_kiln");

/// How long anything may take that should take a moment: two busy cores are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One test at a time: what a test leaves behind is found among all descendants of this process. `None`, and a line that
/// says why, where there is no use in testing.
pub(crate) fn alone() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the daemon needs root");
        return None;
    }
    if !std::path::Path::new(image::BUSYBOX).exists() {
        println!("skipped: {} is missing (Debian: busybox-static)", image::BUSYBOX);
        return None;
    }
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    left::become_reaper();
    Some(guard)
}

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// Numbers that a seed decides.
pub(crate) struct Random(u64);

impl Random {
    /// The seed of the environment, or one of its own, which is printed.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = setting("KILN_TEST_SEED", now.as_nanos() as u64);
        println!("KILN_TEST_SEED={seed}");
        Self(seed)
    }

    /// Less than `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }

    /// Shorter than `limit`.
    pub(crate) fn moment(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(limit.as_micros() as u64))
    }
}

/// A folder for a daemon that knows the registry.
pub(crate) fn folder_for(registry: &Registry) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("buildkitd.toml"), registry.config()).unwrap();
    folder
}

/// A channel to a daemon.
pub(crate) async fn connect(address: &str) -> tonic::transport::Channel {
    let options = kiln_client::connect::Options { tls: None, timeout: Some(PATIENCE) };
    kiln_client::connect::connect(address, &options).await.unwrap()
}

/// Asks until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
