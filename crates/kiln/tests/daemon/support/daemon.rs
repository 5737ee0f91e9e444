//! A daemon as a process of its own.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{KILN, PATIENCE};

/// A `buildkitd` that runs on a folder.
pub(crate) struct Daemon {
    child: Child,
    folder: PathBuf,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    /// What was said, and whether that is all.
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Daemon {
    /// Starts one that keeps its state in `folder/root` and listens at `folder/sock`.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::spawn(folder, &folder.join("root")).listening()
    }

    /// Starts one that keeps its state in `root`.
    pub(crate) fn start_at(folder: &Path, root: &Path) -> Self {
        Self::spawn(folder, root).listening()
    }

    /// Starts one that collects garbage.
    pub(crate) fn collecting(folder: &Path) -> Self {
        Self::spawn_with(folder, &folder.join("root"), true).listening()
    }

    /// Starts one, and does not wait for anything.
    pub(crate) fn spawn(folder: &Path, root: &Path) -> Self {
        Self::spawn_with(folder, root, false)
    }

    fn spawn_with(folder: &Path, root: &Path, collects: bool) -> Self {
        let config = folder.join("buildkitd.toml");
        if !config.exists() {
            std::fs::write(&config, "").unwrap();
        }
        let mut child = Command::new(KILN)
            .args(["buildkitd", "--debug", &format!("--oci-worker-gc={collects}"), "--root"])
            .arg(root)
            .arg("--config")
            .arg(&config)
            .arg("--addr")
            .arg(format!("unix://{}", folder.join("sock").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let (told, said) = (log.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                told.lines.lock().unwrap().0.push(line);
                told.more.notify_all();
            }
            told.lines.lock().unwrap().1 = true;
            told.more.notify_all();
        });
        Self { child, folder: folder.to_owned(), log }
    }

    /// Waits until it listens.
    fn listening(self) -> Self {
        self.says("running server");
        self
    }

    /// Starts one and waits until it has cleared away what others left; it says what it found.
    pub(crate) fn swept(folder: &Path) -> (Self, String) {
        let daemon = Self::start(folder);
        let found = daemon.says("swept");
        (daemon, found)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its address, as clients are told it.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.folder.join("sock").display())
    }

    /// The first line of its log with `words`, when it comes.
    pub(crate) fn says(&self, words: &str) -> String {
        let start = Instant::now();
        let mut lines = self.log.lines.lock().unwrap();
        let mut from = 0;
        loop {
            if let Some(line) = lines.0[from..].iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            from = lines.0.len();
            let left = PATIENCE.saturating_sub(start.elapsed());
            assert!(!lines.1 && !left.is_zero(), "the daemon does not say {words:?}, but {:#?}", lines.0);
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Everything that it said.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().0.clone()
    }

    /// Whether it still runs.
    pub(crate) fn is_up(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL; returns when it is dead.
    pub(crate) fn kill(mut self) -> u32 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child.id()
    }

    /// SIGTERM; returns when it has ended, in order.
    pub(crate) fn stop(mut self) {
        let status = self.stop_now();
        assert!(status.success(), "the daemon ended with {status}: {:#?}", self.log());
    }

    fn stop_now(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        super::wait_for("the end of the daemon", || self.child.try_wait().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that failed: nobody looks at what is left.
        if self.is_up() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(40);
            eprintln!("the daemon said last: {:#?}", &log[from..]);
        }
    }
}
