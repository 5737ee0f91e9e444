//! The same behaviour from an OCI runtime binary, where one is installed.

use std::sync::Arc;
use std::time::Duration;

use kiln_executor::{
    Error, Executor, ExecutorConfig, ExternalExecutor, FileSpec, Mount, MountSource, Network, ProcessIo,
    ProcessSpec, Security, Tree, run,
};
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, bind, collect, mounts_below, no_strays, run_on, tmpfs, until};

crate::tests![external_steps, external_mounts, external_further_processes, external_cancel];

/// The runtimes of this machine that work here.
pub(crate) fn runtimes(bench: &Bench) -> Vec<ExternalExecutor> {
    let mut out = Vec::new();
    for path in ["/usr/sbin/runc", "/usr/bin/crun"] {
        match ExternalExecutor::new(ExecutorConfig::default(), path.into(), bench.fresh()) {
            Ok(executor) => out.push(executor),
            Err(error) => println!("    skipped: {error}"),
        }
    }
    out
}

/// Whether the runtime can run anything here: crun 1.8 refuses hybrid cgroups.
pub(crate) async fn works(bench: &Bench, executor: &ExternalExecutor) -> bool {
    let ran = run_on(executor, bench.script("true")).await.unwrap();
    if ran.exit.code != 0 {
        println!("    skipped: {}", ran.err.trim());
        executor.shutdown().await;
    }
    ran.exit.code == 0
}

async fn external_steps(bench: Arc<Bench>) {
    for executor in runtimes(&bench) {
        if !works(&bench, &executor).await {
            continue;
        }
        let mut spec = bench.script("echo out; echo err >&2; id -u; pwd; hostname; echo $HOME; grep -E 'CapEff|Seccomp:' /proc/self/status; exit 37");
        spec.process.user = "app".to_owned();
        spec.process.cwd = "/deep/er".to_owned();
        let ran = run_on(&executor, spec).await.unwrap();
        assert_eq!((ran.exit.code, ran.err.as_str()), (37, "err\n"));
        assert_eq!(
            ran.out,
            "out\n1000\n/deep/er\nbuildkitsandbox\n/home/app\nCapEff:\t0000000000000000\nSeccomp:\t2\n"
        );
        let mut spec = bench.script("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '");
        spec.network = Network::None;
        assert_eq!(run_on(&executor, spec).await.unwrap().out, "lo\n");
        let mut spec =
            bench.script("grep Seccomp: /proc/self/status; mount -t tmpfs none /home && echo mounted");
        spec.security = Security::Insecure;
        assert_eq!(run_on(&executor, spec).await.unwrap().out, "Seccomp:\t0\nmounted\n");
        let ran = run_on(&executor, bench.spec(&["/absent"])).await.unwrap();
        assert!(ran.exit.code != 0 && ran.err.contains("/absent"), "{ran:?}");
        let mut spec = bench.script("true");
        spec.process.user = "ghost".to_owned();
        assert!(matches!(run_on(&executor, spec).await, Err(Error::NoSuchUser { .. })));
        executor.shutdown().await;
    }
}

async fn external_mounts(bench: Arc<Bench>) {
    for executor in runtimes(&bench) {
        if !works(&bench, &executor).await {
            continue;
        }
        let folder = bench.fresh();
        std::fs::create_dir(folder.join("sub")).unwrap();
        std::fs::write(folder.join("sub/f"), "sub\n").unwrap();
        let mut spec = bench.script("cat /a/f /k/s; echo x > /a/new || echo read-only; touch /t/u/x && echo tmpfs; cat /etc/hosts | wc -l; df -m /dev/shm | tail -1 | awk '{print $2}'");
        let (root, upper) = bench.overlay(vec![bench.lower()]);
        spec.root.tree = Tree::Mount(root);
        let secret = FileSpec { content: b"hush\n".as_slice().into(), mode: 0o400, uid: 0, gid: 0 };
        let MountSource::Tree { tree, .. } = bind("/x", &folder).source else { panic!("a tree") };
        spec.mounts = vec![
            Mount {
                dest: "/a".to_owned(),
                source: MountSource::Tree { tree, selector: "/sub".to_owned() },
                readonly: true,
            },
            Mount { dest: "/k/s".to_owned(), source: MountSource::File(secret), readonly: true },
            tmpfs("/t/u"),
        ];
        let ran = run_on(&executor, spec).await.unwrap();
        assert_eq!(ran.out, "sub\nhush\nread-only\ntmpfs\n2\n64\n", "{}", ran.err);
        assert!(!["a", "k", "t"].iter().any(|name| upper.join(name).exists()));
        assert_eq!(mounts_below(bench.folder()), [""; 0]);
        executor.shutdown().await;
    }
}

async fn external_further_processes(bench: Arc<Bench>) {
    for executor in runtimes(&bench) {
        if !works(&bench, &executor).await {
            continue;
        }
        let (io, mut said) = ProcessIo::output(4);
        let script = bench.script("touch /tmp/mark; echo ready; exec sleep 60");
        let container = executor.start(script, io).await.unwrap();
        until(&mut said, "ready").await;
        let (io, output) = ProcessIo::output(4);
        let args = ["sh", "-c", "ls /tmp; id -u; exit 4"].map(str::to_owned).to_vec();
        let spec = ProcessSpec { args, user: "app".to_owned(), ..ProcessSpec::default() };
        let process = container.exec(spec, io).await.unwrap();
        let collected = tokio::spawn(collect(output));
        let code = process.wait().await.unwrap().code;
        assert_eq!((code, collected.await.unwrap()), (4, ("mark\n1000\n".to_owned(), String::new())));
        drop(container);
        no_strays().await;
        executor.shutdown().await;
    }
}

async fn external_cancel(bench: Arc<Bench>) {
    for executor in runtimes(&bench) {
        if !works(&bench, &executor).await {
            continue;
        }
        for delay in [0, 10, 50, 100, 200, 400] {
            let token = CancellationToken::new();
            let cancel = token.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                cancel.cancel();
            });
            let spec = bench.script("trap '' TERM; (trap '' TERM; setsid sleep 1000) & sleep 1000");
            assert!(matches!(
                run(&executor, spec, ProcessIo::default(), &token).await,
                Err(Error::Cancelled)
            ));
            no_strays().await;
        }
        executor.shutdown().await;
    }
}
