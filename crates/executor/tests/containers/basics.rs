//! What every step sees: its processes, environment, identity, streams.

use std::sync::Arc;

use bytes::Bytes;
use kiln_executor::{
    Error, Executor as _, HostAddress, Network, OutputStream, ProcessIo, ProcessSpec, Rlimit, Security,
    Stdin, WinSize,
};
use tokio::sync::mpsc;

use crate::support::{Bench, collect, until};

crate::tests![
    output_and_code,
    exit_codes,
    missing_programs,
    environment,
    namespaces,
    users,
    working_directory,
    hosts_and_names,
    networks,
    limits,
    standard_input,
    terminal,
    signals,
    further_processes,
    setup_errors,
    insecure,
    unlisted_descriptors,
];

async fn output_and_code(bench: Arc<Bench>) {
    let ran = bench.run(bench.script("echo out; echo err >&2; exit 37")).await;
    assert_eq!((ran.exit.code, ran.out.as_str(), ran.err.as_str()), (37, "out\n", "err\n"));
    let flood = bench.run(bench.script("yes | head -c 3000000; printf end >&2")).await;
    assert_eq!((flood.out.len(), flood.err.as_str()), (3_000_000, "end"));
}

async fn exit_codes(bench: Arc<Bench>) {
    for (script, code) in [
        ("true", 0),
        ("exit 255", 255),
        ("kill -9 $$", 0),
        ("sh -c 'kill -9 $$'; exit $?", 137),
        ("kill -SEGV $$", 0),
    ] {
        assert_eq!(bench.run(bench.script(script)).await.exit.code, code, "{script}");
    }
    // PID 1 ignores what it has no handler for, but not what comes from outside.
    let container = bench.start("exec sleep 60").await;
    container.kill();
    assert_eq!(container.wait().await.unwrap().code, 137);
}

async fn missing_programs(bench: Arc<Bench>) {
    let ran = bench.run(bench.spec(&["/no/shell", "-c", "x"])).await;
    assert_eq!(ran.exit.code, 1);
    assert_eq!(ran.err, "cannot run \"/no/shell\": no such file or directory\n");
    let ran = bench.run(bench.spec(&["nothing-like-it"])).await;
    assert_eq!(
        (ran.exit.code, ran.err.as_str()),
        (1, "cannot run \"nothing-like-it\": executable file not found in $PATH\n")
    );
    let ran = bench.run(bench.spec(&["/etc/passwd"])).await;
    assert_eq!((ran.exit.code, ran.err.as_str()), (1, "cannot run \"/etc/passwd\": permission denied\n"));
    let ran = bench.run(bench.spec(&["/etc"])).await;
    assert_eq!(ran.exit.code, 1, "{ran:?}");
    assert_eq!(bench.run(bench.spec(&["echo", "by path"])).await.out, "by path\n");
}

async fn environment(bench: Arc<Bench>) {
    let mut spec = bench.spec(&["env"]);
    spec.process.env.push("A=x y".to_owned());
    let out = bench.run(spec.clone()).await.out;
    assert_eq!(out, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nA=x y\nHOME=/root\n");
    spec.process.user = "app".to_owned();
    assert!(bench.run(spec.clone()).await.out.ends_with("HOME=/home/app\n"));
    spec.process.env.push("HOME=/else".to_owned());
    assert!(bench.run(spec).await.out.ends_with("HOME=/else\n"));
}

async fn namespaces(bench: Arc<Bench>) {
    let out = bench
        .output("echo $$; ls /proc | grep -c '^[0-9]'; cat /proc/1/cmdline | tr '\\0' ' '; echo; hostname; cat /proc/self/uid_map | awk '{print $1,$2}'; ls /proc/self/fd | wc -l; umask")
        .await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        (lines[0], lines[3], lines[4], lines[5], lines[6]),
        ("1", "buildkitsandbox", "0 0", "4", "0022"),
        "{out}"
    );
    assert!(lines[1].parse::<u32>().unwrap() <= 4, "{out}");
    assert!(lines[2].starts_with("/bin/sh -c echo"), "{out}");
    let host: Vec<String> = ["pid", "mnt", "ipc", "uts"]
        .iter()
        .map(|name| {
            std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_string_lossy().into_owned()
        })
        .collect();
    let inside = bench.output("for n in pid mnt ipc uts; do readlink /proc/self/ns/$n; done").await;
    assert!(inside.lines().zip(&host).all(|(inside, host)| inside != host), "{inside} {host:?}");
}

async fn users(bench: Arc<Bench>) {
    for (user, expected) in [
        ("", "0:0 0 10"),
        ("app", "1000:1000 10 1000"),
        ("app:daemon", "1000:1 1"),
        ("4242", "4242:0 0"),
        ("4242:wheel", "4242:10 10"),
        ("12:34", "12:34 34"),
    ] {
        let mut spec = bench.script("echo $(id -u):$(id -g) $(sed -n 's/^Groups:.//p' /proc/self/status)");
        spec.process.user = user.to_owned();
        assert_eq!(bench.run(spec).await.out.trim(), expected, "{user}");
    }
    let mut spec = bench.script("true");
    spec.process.user = "ghost".to_owned();
    let error = bench.try_run(spec).await.unwrap_err();
    assert_eq!(error.to_string(), "unable to find user ghost: no matching entries in passwd file");
}

async fn working_directory(bench: Arc<Bench>) {
    let mut spec = bench.script("pwd; stat -c '%U %a' . ..; touch x && echo writable");
    spec.process.cwd = "/deep/er".to_owned();
    spec.process.user = "app".to_owned();
    assert_eq!(bench.run(spec.clone()).await.out, "/deep/er\napp 755\napp 755\nwritable\n");
    spec = bench.script("pwd");
    spec.process.cwd = "home/../../../tmp".to_owned();
    assert_eq!(bench.run(spec.clone()).await.out, "/tmp\n");
    spec.process.cwd = "/etc/passwd".to_owned();
    assert!(bench.try_run(spec).await.unwrap_err().to_string().contains("/etc/passwd"));
}

async fn hosts_and_names(bench: Arc<Bench>) {
    let mut spec = bench.script("cat /etc/hosts; hostname; test -s /etc/resolv.conf && echo resolver; echo x >> /etc/hosts || echo read-only; rm /etc/resolv.conf 2>&1 | grep -c busy");
    spec.hostname = Some("builder.example".to_owned());
    spec.extra_hosts = vec![HostAddress { host: "db".to_owned(), ip: "10.1.2.3".parse().unwrap() }];
    let ran = bench.run(spec).await;
    assert_eq!(
        ran.out,
        "127.0.0.1\tlocalhost builder.example\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\n\
         builder.example\nresolver\nread-only\n1\n"
    );
}

async fn networks(bench: Arc<Bench>) {
    let mut spec = bench.script("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ls /sys/class/net; ifconfig lo | grep -c 'UP LOOPBACK'; ping -c1 -W1 127.0.0.1 >/dev/null && echo pong");
    spec.network = Network::None;
    assert_eq!(bench.run(spec).await.out, "lo\nlo\n1\npong\n");
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(bench.output("readlink /proc/self/ns/net").await.trim(), host.to_str().unwrap());
}

async fn limits(bench: Arc<Bench>) {
    let mut spec = bench.script("ulimit -n; ulimit -Hn; ulimit -c");
    spec.rlimits = vec![
        Rlimit { name: "nofile".to_owned(), soft: 1000, hard: 2000 },
        Rlimit { name: "core".to_owned(), soft: 0, hard: -1 },
    ];
    assert_eq!(bench.run(spec.clone()).await.out, "1000\n2000\n0\n");
    spec.rlimits[0].name = "nonsense".to_owned();
    assert!(matches!(bench.try_run(spec).await, Err(Error::Invalid { field: "ulimit", .. })));
}

async fn standard_input(bench: Arc<Bench>) {
    assert_eq!(
        bench.output("wc -c; test -t 0 || echo no tty; (: < /dev/tty) 2>/dev/null || echo no terminal").await,
        "0\nno tty\nno terminal\n"
    );
    let (sender, receiver) = mpsc::channel(1);
    let (mut io, output) = ProcessIo::output(4);
    io.stdin = Stdin::Channel(receiver);
    let container = bench.executor.start(bench.spec(&["cat"]), io).await.unwrap();
    let collected = tokio::spawn(collect(output));
    for _ in 0..40 {
        sender.send(Bytes::from(vec![b'x'; 10_000])).await.unwrap();
    }
    drop(sender);
    assert_eq!(container.wait().await.unwrap().code, 0);
    assert_eq!(collected.await.unwrap().0.len(), 400_000);
}

async fn terminal(bench: Arc<Bench>) {
    let (sender, receiver) = mpsc::channel(4);
    let (mut io, mut output) = ProcessIo::output(4);
    io.stdin = Stdin::Channel(receiver);
    let script = "tty; test -t 2 && echo tty; test -c /dev/console && echo console; \
        until [ \"$(stty size 2>/dev/null)\" = '33 77' ]; do sleep 0.01; done; echo resized; read line; echo got $line";
    let mut spec = bench.script(script);
    spec.process.tty = true;
    let container = bench.executor.start(spec, io).await.unwrap();
    container.resize(WinSize { rows: 33, cols: 77 });
    let before = until(&mut output, "resized").await;
    sender.send(Bytes::from_static(b"hello\n")).await.unwrap();
    let collected = tokio::spawn(collect(output));
    assert_eq!(container.wait().await.unwrap().code, 0);
    let (out, _) = collected.await.unwrap();
    let out = (before + &out).replace('\r', "");
    assert_eq!(out, "/dev/pts/0\ntty\nconsole\nresized\nhello\ngot hello\n");
}

async fn signals(bench: Arc<Bench>) {
    let (io, mut output) = ProcessIo::output(4);
    let spec = bench.script("trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    let container = bench.executor.start(spec, io).await.unwrap();
    assert_eq!(until(&mut output, "ready").await, "ready\n");
    let collected = tokio::spawn(collect(output));
    container.signal(15);
    assert_eq!(container.wait().await.unwrap().code, 5);
    assert_eq!(collected.await.unwrap().0, "caught\n");
}

async fn further_processes(bench: Arc<Bench>) {
    let mut spec = bench.script("touch /tmp/mark; echo ready; exec sleep 60");
    spec.process.user = "app".to_owned();
    spec.process.cwd = "/tmp".to_owned();
    let (io, mut output) = ProcessIo::output(4);
    let container = bench.executor.start(spec, io).await.unwrap();
    until(&mut output, "ready").await;
    let run = async |args: &[&str], user: &str, tty: bool| {
        let (io, output) = ProcessIo::output(4);
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let process = ProcessSpec { args, user: user.to_owned(), tty, ..ProcessSpec::default() };
        let process = container.exec(process, io).await.unwrap();
        let collected = tokio::spawn(collect(output));
        let exit = process.wait().await.unwrap();
        (exit.code, collected.await.unwrap())
    };
    let (code, (out, err)) =
        run(&["sh", "-c", "pwd; ls; id -u; hostname; ps | grep -c 'sleep 6[0]'; grep -E 'CapBnd|Seccomp:' /proc/self/status; exit 3"], "", false).await;
    assert_eq!(code, 3, "{err}");
    assert_eq!(out, "/tmp\nmark\n1000\nbuildkitsandbox\n1\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n");
    let (code, (out, _)) = run(&["sh", "-c", "id -u; tty"], "root", true).await;
    assert_eq!((code, out.replace('\r', "").as_str()), (0, "0\n/dev/pts/0\n"));
    let (code, (_, err)) = run(&["/absent"], "", false).await;
    assert_eq!((code, err.as_str()), (1, "cannot run \"/absent\": no such file or directory\n"));
    let many = futures(40, async |n| run(&["sh", "-c", &format!("echo {n}")], "", false).await.1.0).await;
    assert_eq!(many, (0..40).map(|n| format!("{n}\n")).collect::<Vec<_>>());
    container.kill();
    assert_eq!(container.wait().await.unwrap().code, 137);
    let spec = ProcessSpec { args: vec!["true".to_owned()], ..ProcessSpec::default() };
    assert!(matches!(container.exec(spec, ProcessIo::default()).await, Err(Error::NotRunning(_))));
}

async fn futures<T>(count: usize, make: impl AsyncFn(usize) -> T) -> Vec<T> {
    let mut out = Vec::new();
    for n in 0..count {
        out.push(make(n).await);
    }
    out
}

async fn setup_errors(bench: Arc<Bench>) {
    for (change, word) in [
        ((|spec| spec.id = "../x".to_owned()) as fn(&mut kiln_executor::RunSpec), "container id"),
        (|spec| spec.process.args.clear(), "arguments"),
        (|spec| spec.process.env.push("A=\0".to_owned()), "NUL"),
        (|spec| spec.mounts = vec![crate::support::bind("/x", "/no/such/folder".as_ref())], "/x"),
        (|spec| spec.hostname = Some("x".repeat(65)), "host name"),
    ] {
        let mut spec = bench.script("true");
        change(&mut spec);
        let error = bench.try_run(spec).await.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

async fn insecure(bench: Arc<Bench>) {
    let mut spec = bench.script("grep -E 'CapEff|Seccomp:' /proc/self/status; mount -t tmpfs none /home && echo mounted; test -w /proc/sys/kernel/panic && cat /proc/sys/kernel/panic > /proc/sys/kernel/panic && echo writable; unshare -m true && echo unshared; ls /dev/loop0 /dev/fuse");
    spec.security = Security::Insecure;
    let ran = bench.run(spec).await;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapPrm")).unwrap().replace("CapPrm", "CapEff");
    assert_eq!(
        ran.out,
        format!("{own}\nSeccomp:\t0\nmounted\nwritable\nunshared\n/dev/fuse\n/dev/loop0\n"),
        "{}",
        ran.err
    );
}

async fn unlisted_descriptors(bench: Arc<Bench>) {
    // A descriptor of the daemon that is not closed by execve.
    let leak = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    assert_eq!(bench.run(bench.spec(&["ls", "/proc/1/fd"])).await.out, "0\n1\n2\n3\n");
    let out = bench.run(bench.spec(&["readlink", "/proc/self/fd/3"])).await;
    assert_eq!(out.out, "", "{out:?}");
    let (io, output) = ProcessIo::output(4);
    let container = bench.executor.start(bench.spec(&["echo", "x"]), io).await.unwrap();
    assert_eq!(collect(output).await.0, "x\n");
    assert_eq!(OutputStream::Stdout as i32, 1);
    container.wait().await.unwrap();
}
