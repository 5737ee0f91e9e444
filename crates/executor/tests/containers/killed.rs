//! A daemon that is killed takes its containers along.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kiln_executor::{Executor as _, ProcessIo};

use crate::support::Bench;

crate::tests![daemon_killed];

/// The argument that makes this binary a daemon to be killed.
pub(crate) const DAEMON: &str = "--as-daemon";

/// Runs containers until it is killed; prints a line once they run.
pub(crate) fn daemon() -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::new();
        let mut containers = Vec::new();
        for _ in 0..5 {
            // The mark is how the test finds what is left.
            let script = "trap '' TERM HUP; (trap '' TERM HUP; setsid sleep 31415) & exec sleep 31415";
            containers.push(bench.executor.start(bench.script(script), ProcessIo::default()).await.unwrap());
        }
        println!("running {}", bench.folder().display());
        std::future::pending::<()>().await;
    });
    unreachable!("it waits for ever");
}

fn marked() -> usize {
    let list = std::fs::read_dir("/proc").unwrap().flatten();
    list.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("31415")
    })
    .count()
}

/// The cgroups of the daemon that was process `pid`.
fn cgroups_of(pid: u32) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let hierarchies = table.lines().filter(|line| line.contains(" - cgroup"));
    let folders =
        hierarchies.filter_map(|line| std::fs::read_dir(format!("{}/kiln", line.split(' ').nth(4)?)).ok());
    let names = folders.flatten().flatten().map(|entry| entry.path().display().to_string());
    names.filter(|name| name.contains(&format!("/kiln/{pid}-"))).collect()
}

async fn daemon_killed(bench: Arc<Bench>) {
    for round in 0..10 {
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .arg(DAEMON)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("running"), "{line}");
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        let mut patience = 200;
        while marked() < 10 && patience > 0 {
            patience -= 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert!(patience > 0, "the daemon's containers do not run");
        patience = 200;
        while marked() > 0 {
            patience -= 1;
            assert!(patience > 0, "{} processes are left", marked());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bench.executor.sweep();
        assert_eq!(cgroups_of(daemon.id()), [""; 0], "cgroups are left");
        drop(std::fs::remove_dir_all(line.trim_start_matches("running ").trim()));
    }
}
