//! `buildctl build` as a process, and what it tells of the build.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{KILN, PATIENCE};

/// A build to be asked for.
#[derive(Clone, Default)]
pub(crate) struct Build {
    args: Vec<String>,
    input: Vec<u8>,
}

impl Build {
    /// By the Dockerfile in `folder/Dockerfile`, with the context `folder/context`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::default()
            .arg("--frontend=dockerfile.v0")
            .arg(format!("--local=dockerfile={}", folder.display()))
            .arg(format!("--local=context={}", folder.join("context").display()))
            .arg("--opt=build-arg:SOURCE_DATE_EPOCH=1000000000")
    }

    /// By LLB as bytes.
    pub(crate) fn definition(bytes: Vec<u8>) -> Self {
        Self { input: bytes, ..Self::default() }
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// An OCI archive, the same for the same files.
    pub(crate) fn archive(self, path: &Path) -> Self {
        self.arg(format!("--output=type=oci,rewrite-timestamp=true,dest={}", path.display()))
    }

    pub(crate) fn start(&self, address: &str) -> Running {
        let home = tempfile::tempdir().unwrap();
        let mut child = Command::new(KILN)
            .args(["buildctl", "--addr", address, "build", "--progress=rawjson"])
            .args(&self.args)
            .env("DOCKER_CONFIG", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let bytes = self.input.clone();
        // A client that has gone takes no input.
        std::thread::spawn(move || drop(input.write_all(&bytes)));
        let seen = Arc::new((Mutex::new(Seen::default()), Condvar::new()));
        let (told, said) = (seen.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut said = BufReader::new(said);
            let mut line = String::new();
            while said.read_line(&mut line).unwrap_or(0) > 0 {
                if serde_json::from_str::<serde_json::Value>(&line).is_err() {
                    told.0.lock().unwrap().other.push(line.trim_end().to_owned());
                }
                line.clear();
            }
            told.0.lock().unwrap().over = true;
            told.1.notify_all();
        });
        Running { child, seen, _home: home }
    }

    /// Builds, to success.
    pub(crate) fn run(&self, address: &str) -> Seen {
        let seen = self.start(address).end();
        assert!(seen.success, "the build fails: {:#?}", seen.other);
        seen
    }

    /// Builds, to failure; what the client says of it.
    pub(crate) fn fail(&self, address: &str) -> String {
        let seen = self.start(address).end();
        assert!(!seen.success, "the build succeeds");
        seen.other.join("\n")
    }
}

/// What a client said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Lines that are no events: errors.
    pub(crate) other: Vec<String>,
    pub(crate) success: bool,
    over: bool,
}

/// A client at work.
pub(crate) struct Running {
    child: Child,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    _home: tempfile::TempDir,
}

impl Running {
    /// Whether the client has said its last word.
    pub(crate) fn is_over(&self) -> bool {
        self.seen.0.lock().unwrap().over
    }

    /// Sends the client a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What there was to be seen when the client has ended.
    pub(crate) fn end(mut self) -> Seen {
        let start = Instant::now();
        let mut seen = self.seen.0.lock().unwrap();
        while !seen.over {
            let left = PATIENCE.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "the build stands still: {:#?}", *seen);
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
        drop(seen);
        let status = super::wait_for("the end of the client", || self.child.try_wait().unwrap());
        let mut seen = std::mem::take(&mut *self.seen.0.lock().unwrap());
        seen.success = status.success();
        seen
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Any other command of `buildctl`; its output.
pub(crate) fn buildctl(address: &str, args: &[&str]) -> String {
    let mut child = Command::new(KILN)
        .args(["buildctl", "--addr", address])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "buildctl {args:?} ends with {status}");
    text
}
