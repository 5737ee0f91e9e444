//! Devices, and what else specifications of devices put into a container.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kiln_cdi::{DeviceKind, DeviceNode, Hook, HookName};
use kiln_executor::{
    BindSpec, EmbeddedExecutor, Executor, ExecutorConfig, Mount, MountFlags, MountSource, ProcessIo, RunSpec,
    Tree,
};

use crate::external::{runtimes, works};
use crate::support::{Bench, Ran, mounts_below, run_on};

crate::tests![
    nodes,
    nodes_that_nobody_gave,
    nodes_stay_in_the_root,
    groups,
    binds_of_the_host,
    binds_stay_in_the_root,
    hooks,
    hooks_that_fail_are_told,
    hooks_of_the_container_are_confined_as_it_is,
    hooks_leave_nothing_running,
    hooks_end_with_their_step,
    hooks_are_refused_by_name,
    external_devices,
    external_hooks,
];

/// A device that no driver has: whoever may open it is told that it is not there.
const NUMBERS: (u32, u32) = (10, 253);

fn node(path: &str) -> DeviceNode {
    DeviceNode {
        path: path.to_owned(),
        host_path: String::new(),
        kind: Some(DeviceKind::Character),
        major: NUMBERS.0,
        minor: NUMBERS.1,
        mode: None,
        permissions: String::new(),
        uid: None,
        gid: None,
    }
}

/// Says of each path whether it may be opened.
fn may_open(paths: &[&str]) -> String {
    let all = paths.join(" ");
    format!(
        "for p in {all}; do if m=$(cat $p 2>&1); then echo read; else case \"$m\" in *'No such device'*) echo may;; *'not permitted'*) echo not;; *) echo $m;; esac; fi; done"
    )
}

fn with_upper(bench: &Bench, script: &str) -> (RunSpec, std::path::PathBuf) {
    let (root, upper) = bench.overlay(vec![bench.lower()]);
    let mut spec = bench.script(script);
    spec.root.tree = Tree::Mount(root);
    (spec, upper)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn given(bench: &Bench) -> (RunSpec, std::path::PathBuf) {
    let script = "stat -c '%F %t:%T %a %u:%g' /dev/kiln/a /opt/b /dev/null /dev/p; ".to_owned()
        + &may_open(&["/dev/kiln/a", "/opt/b"])
        + "; echo x > /dev/kiln/a || echo no write; : > /dev/null && echo null";
    let (mut spec, upper) = with_upper(bench, &script);
    spec.process.user = "app".to_owned();
    spec.devices = vec![
        DeviceNode { mode: Some(0o660), ..node("/dev/kiln/a") },
        DeviceNode {
            kind: None,
            major: 0,
            minor: 0,
            host_path: "/dev/zero".into(),
            uid: Some(5),
            gid: Some(6),
            ..node("/opt/b")
        },
        DeviceNode {
            kind: None,
            major: 0,
            minor: 0,
            mode: Some(0o622),
            uid: Some(0),
            gid: Some(0),
            ..node("/dev/null")
        },
        DeviceNode { kind: Some(DeviceKind::Pipe), major: 0, minor: 0, mode: Some(0o600), ..node("/dev/p") },
    ];
    // All of /dev/zero would never end.
    spec.process.args[2] = spec.process.args[2].replace("cat $p", "head -c1 $p");
    (spec, upper)
}

fn check_given(ran: &Ran) {
    let said: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        said[..4],
        [
            "character special file a:fd 660 1000:1000",
            "character special file 1:5 666 5:6",
            "character special file 1:3 622 0:0",
            "fifo 0:0 600 1000:1000"
        ],
        "{ran:?}"
    );
    assert_eq!(said[4..], ["may", "read", "no write", "null"], "{ran:?}");
}

async fn nodes(bench: Arc<Bench>) {
    let (spec, upper) = given(&bench);
    let ran = bench.run(spec).await;
    check_given(&ran);
    // They were mounted, so that no layer has them.
    assert!(!upper.join("opt").exists() && !upper.join("dev").exists(), "{:?}", names(&upper));
    assert_eq!(mounts_below(bench.folder()), [""; 0]);
}

async fn nodes_that_nobody_gave(bench: Arc<Bench>) {
    if !crate::support::has_cgroups() {
        return println!("    skipped: nothing keeps devices away here but file systems");
    }
    let script = |permissions: &str| {
        let script = "mknod /tmp/other c 10 252; mknod /tmp/same c 10 253; ".to_owned()
            + &may_open(&["/tmp/other", "/tmp/same"])
            + "; (: > /tmp/same) 2> /tmp/e; grep -c 'not permitted' /tmp/e";
        let mut spec = bench.script(&script);
        spec.devices = vec![DeviceNode { permissions: permissions.to_owned(), ..node("/dev/a") }];
        spec
    };
    assert_eq!(bench.run(script("rw")).await.out, "not\nmay\n0\n");
    assert_eq!(bench.run(script("r")).await.out, "not\nmay\n1\n");
    assert_eq!(bench.run(script("w")).await.out, "not\nnot\n0\n");
    // A container beside it has none.
    let ran = bench.run(bench.script(&("mknod /tmp/d c 10 253; ".to_owned() + &may_open(&["/tmp/d"])))).await;
    assert_eq!(ran.out, "not\n");
}

async fn nodes_stay_in_the_root(bench: Arc<Bench>) {
    let outside = bench.fresh();
    let lower = bench.fresh();
    std::os::unix::fs::symlink(&outside, lower.join("absolute")).unwrap();
    let climb = "../".repeat(20) + outside.to_str().unwrap().trim_start_matches('/');
    std::os::unix::fs::symlink(climb, lower.join("relative")).unwrap();
    for path in ["/absolute/x", "/relative/x", "../../../../absolute/x", "relative/../../../../absolute/./x"]
    {
        let (root, _) = bench.overlay(vec![lower.clone(), bench.lower()]);
        let mut spec = bench.script(&format!("test -c {} && echo here", outside.join("x").display()));
        spec.root.tree = Tree::Mount(root);
        spec.devices = vec![node(path)];
        let ran = bench.run(spec).await;
        assert_eq!(ran.out, "here\n", "{path}: {ran:?}");
        assert_eq!(names(&outside), [""; 0], "{path}");
    }
    for path in ["/", "/dev/..", "/proc/x", "/proc/self/fd/0"] {
        let mut spec = bench.script("true");
        spec.devices = vec![node(path)];
        let error = bench.try_run(spec).await.unwrap_err().to_string();
        assert!(error.contains(path), "{error}");
    }
}

async fn groups(bench: Arc<Bench>) {
    let mut spec = bench.script("id -G");
    spec.process.user = "app".to_owned();
    spec.groups = vec![4242, 10, 44];
    assert_eq!(bench.run(spec).await.out, "1000 10 44 4242\n");
}

fn bind_of(dest: &str, path: &Path, flags: MountFlags) -> Mount {
    let source = MountSource::Bind(BindSpec { path: path.to_owned(), submounts: false, flags });
    Mount { dest: dest.to_owned(), source, readonly: true }
}

async fn binds_of_the_host(bench: Arc<Bench>) {
    let folder = bench.fresh();
    std::fs::write(folder.join("lib.so"), "lib\n").unwrap();
    std::os::unix::fs::symlink("lib.so", folder.join("lib.so.1")).unwrap();
    let all = MountFlags { nosuid: true, nodev: true, noexec: true };
    let script = "cat /usr/lib/lib.so /d/lib.so; grep -E ' (/usr/lib/lib.so|/d) ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1-5; echo x > /d/new || echo kept";
    let (mut spec, upper) = with_upper(&bench, script);
    // The host's link is followed, on the host.
    spec.mounts = vec![
        bind_of("/usr/lib/lib.so", &folder.join("lib.so.1"), all),
        bind_of("/d", &folder, MountFlags::default()),
    ];
    let ran = bench.run(spec).await;
    let said: Vec<&str> = ran.out.lines().collect();
    assert_eq!((said[0], said[1], said[4]), ("lib", "lib", "kept"), "{ran:?}");
    assert!(said[2].starts_with("ro,nosuid,nodev,noexec"), "{said:?}");
    assert!(
        said[3].starts_with("ro,") && !said[3].contains("noexec") && !said[3].contains("nosuid"),
        "{said:?}"
    );
    assert!(!upper.join("usr/lib").exists() && !upper.join("d").exists());
    let mut spec = bench.script("true");
    spec.mounts = vec![bind_of("/d", &folder.join("gone"), all)];
    let error = bench.try_run(spec).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot mount /d: ") && error.contains("/gone"), "{error}");
}

async fn binds_stay_in_the_root(bench: Arc<Bench>) {
    let (outside, shown, lower) = (bench.fresh(), bench.fresh(), bench.fresh());
    std::fs::write(shown.join("f"), "shown\n").unwrap();
    std::os::unix::fs::symlink(&outside, lower.join("link")).unwrap();
    let (root, _) = bench.overlay(vec![lower, bench.lower()]);
    let mut spec = bench.script(&format!("cat {}", outside.join("d/f").display()));
    spec.root.tree = Tree::Mount(root);
    spec.mounts = vec![bind_of("/link/d", &shown, MountFlags::default())];
    assert_eq!(bench.run(spec).await.out, "shown\n");
    assert_eq!(names(&outside), [""; 0]);
}

fn hook(name: HookName, script: &str) -> Hook {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    Hook { name, path: "/bin/sh".to_owned(), args, env: vec!["WORD=told".to_owned()], timeout: Some(10) }
}

async fn hooks_end_with_their_step(bench: Arc<Bench>) {
    let folder = bench.fresh();
    let executor = with_bundles(&folder);
    let mut spec = bench.script("true");
    let script = format!("touch {}/begun; sleep 1000", folder.display());
    spec.hooks = vec![Hook { timeout: None, ..hook(HookName::CreateContainer, &script) }];
    let start = executor.start(spec, ProcessIo::default());
    let begun = async {
        while !folder.join("begun").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = start => panic!("the hook ended"),
        () = begun => {}
    }
    // The bundle goes last.
    while !names(&folder.join("bundles")).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    executor.shutdown().await;
    crate::support::no_strays().await;
}

async fn hooks_are_refused_by_name(bench: Arc<Bench>) {
    let refused = async |executor: &dyn Executor, name: HookName| {
        let mut spec = bench.script("true");
        spec.hooks = vec![hook(HookName::StartContainer, "true"), hook(name, "true")];
        let error = run_on(executor, spec).await.unwrap_err().to_string();
        assert!(error.contains("--oci-worker-binary"), "{error}");
        error
    };
    // Without a place for bundles none can be run.
    assert!(
        refused(&bench.executor, HookName::CreateContainer).await.contains("startContainer hook /bin/sh")
    );
    let executor = with_bundles(&bench.fresh());
    for name in [HookName::Prestart, HookName::CreateRuntime, HookName::Poststart, HookName::Poststop] {
        assert!(refused(&executor, name).await.contains(&format!("{} hook /bin/sh", name.name())));
    }
    executor.shutdown().await;
}

fn with_bundles(folder: &Path) -> EmbeddedExecutor {
    let bundles = Some(folder.join("bundles"));
    EmbeddedExecutor::new(ExecutorConfig { bundles, ..ExecutorConfig::default() }).unwrap()
}

/// A hook that does as NVIDIA's do: it finds the container's root by its bundle, and changes it.
const LINKS: &str = r#"
state=$(cat)
bundle=$(echo "$state" | sed 's/.*"bundle":"\([^"]*\)".*/\1/')
root=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' "$bundle/config.json")
test "$(pwd -P)" = "$bundle" && cat "$root/usr/lib/thing/word" > FOLDER/seen
ln -s thing/word "$root/usr/lib/link"
ls "$root" > FOLDER/root
echo "$state $WORD" > FOLDER/state
"#;

async fn hooks(bench: Arc<Bench>) {
    let (folder, shown) = (bench.fresh(), bench.fresh());
    std::fs::write(shown.join("word"), "word\n").unwrap();
    let executor = with_bundles(&folder);
    let said = folder.display().to_string();
    let (mut spec, upper) =
        with_upper(&bench, "cat /usr/lib/link /tmp/inside; ls /host; grep -c bundles /proc/mounts");
    let id = spec.id.clone();
    spec.mounts = vec![bind_of("/usr/lib/thing", &shown, MountFlags::default())];
    spec.hooks = vec![
        hook(HookName::StartContainer, "cat > /dev/null; echo inside $WORD > /tmp/inside; ls / > /tmp/root"),
        hook(HookName::CreateContainer, &LINKS.replace("FOLDER", &said)),
    ];
    let ran = run_on(&executor, spec).await.unwrap();
    assert_eq!(ran.out, "word\ninside told\n0\n", "{ran:?}");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("seen"), "word\n");
    assert!(
        read("root").contains("usr") && read("state").contains(&id) && read("state").ends_with(" told\n")
    );
    assert!(std::fs::read_to_string(upper.join("tmp/root")).unwrap().contains("usr"));
    assert_eq!((names(&folder.join("bundles")), mounts_below(bench.folder())), (Vec::new(), Vec::new()));
    executor.shutdown().await;
}

async fn hooks_of_the_container_are_confined_as_it_is(bench: Arc<Bench>) {
    let folder = bench.fresh();
    let executor = with_bundles(&folder);
    let look =
        "grep -E '^(Uid|Gid|Groups|Cap|Seccomp:|NoNewPrivs)' /proc/self/status; ls /proc/self/fd | wc -l";
    for user in ["", "app"] {
        let mut spec = bench.script(&format!("cat /dev/shm/hook; echo; {look}"));
        spec.process.user = user.to_owned();
        spec.groups = vec![4242];
        let script = format!("cat > /dev/null; ({look}) > /dev/shm/hook");
        spec.hooks = vec![hook(HookName::StartContainer, &script)];
        let ran = run_on(&executor, spec).await.unwrap();
        let (in_hook, in_step) = ran.out.split_once("\n\n").unwrap();
        assert_eq!(in_hook, in_step.trim_end(), "{user:?}");
        assert!(in_hook.contains("Seccomp:\t2") && in_hook.contains("4242"), "{in_hook}");
    }
    executor.shutdown().await;
}

async fn hooks_leave_nothing_running(bench: Arc<Bench>) {
    let folder = bench.fresh();
    let executor = with_bundles(&folder);
    let mut spec = bench.script("for p in /proc/[0-9]*; do cat $p/comm 2> /dev/null; done");
    let script = "setsid sleep 1000 > /dev/null 2>&1 < /dev/null & (sleep 1001 &) ; exit 0";
    spec.hooks = vec![hook(HookName::CreateContainer, script), hook(HookName::StartContainer, script)];
    let ran = run_on(&executor, spec).await.unwrap();
    assert!(ran.exit.code == 0 && !ran.out.is_empty() && !ran.out.contains("sleep"), "{ran:?}");
    executor.shutdown().await;
}

async fn hooks_that_fail_are_told(bench: Arc<Bench>) {
    let folder = bench.fresh();
    let executor = with_bundles(&folder);
    let fails = async |hook: Hook| {
        let (mut spec, upper) = with_upper(&bench, "echo ran > /ran");
        spec.hooks = vec![hook];
        let error = run_on(&executor, spec).await.unwrap_err();
        assert!(matches!(error, kiln_executor::Error::Hook { .. }), "{error}");
        assert!(!upper.join("ran").exists());
        error.to_string()
    };
    let create = |script: &str| hook(HookName::CreateContainer, script);
    assert_eq!(
        fails(create("echo no such library >&2; exit 3")).await,
        "the createContainer hook /bin/sh failed: exit code 3: no such library"
    );
    assert!(fails(create("kill -9 $$")).await.ends_with("killed by signal 9"));
    let slow = Hook { timeout: Some(1), ..create("echo waits; sleep 60") };
    assert!(fails(slow).await.ends_with("not done in 1 s: waits"));
    // Also who never falls silent.
    let loud = Hook { timeout: Some(1), ..create("yes; sleep 60") };
    assert!(fails(loud).await.contains("not done in 1 s: "));
    // What it says is read, however much it is, and its end is kept.
    let error = fails(create("yes x | head -c 1000000; echo the end; exit 1")).await;
    assert!(error.ends_with("x\nthe end") && error.len() < 4096, "{}", error.len());
    let gone = Hook { path: "/there/is/none".to_owned(), ..create("") };
    assert!(fails(gone).await.ends_with("exit code 127: No such file or directory (os error 2)"));
    let inside = hook(HookName::StartContainer, "exit 4");
    assert!(fails(inside).await.starts_with("the startContainer hook /bin/sh failed: exit code 4"));
    assert_eq!(names(&folder.join("bundles")), [""; 0]);
    executor.shutdown().await;
}

async fn external_devices(bench: Arc<Bench>) {
    for executor in runtimes(&bench) {
        if !works(&bench, &executor).await {
            continue;
        }
        let (mut spec, upper) = given(&bench);
        // Runtimes have a null of their own.
        spec.devices.remove(2);
        let script = spec.process.args[2].replace(" /dev/null /dev/p", " /dev/p");
        spec.process.args[2] = script;
        let ran = run_on(&executor, spec).await.unwrap();
        let said: Vec<&str> = ran.out.lines().collect();
        assert_eq!(
            said[..3],
            [
                "character special file a:fd 660 1000:1000",
                "character special file 1:5 666 5:6",
                "fifo 0:0 600 1000:1000"
            ],
            "{ran:?}"
        );
        assert_eq!(said[3..], ["may", "read", "no write", "null"], "{ran:?}");
        assert!(!upper.join("opt").exists(), "{:?}", names(&upper));
        let mut spec = bench.script("id -G");
        spec.process.user = "app".to_owned();
        spec.groups = vec![4242, 10];
        assert_eq!(run_on(&executor, spec).await.unwrap().out, "1000 10 4242\n");
        executor.shutdown().await;
    }
}

async fn external_hooks(bench: Arc<Bench>) {
    for executor in runtimes(&bench) {
        if !works(&bench, &executor).await {
            continue;
        }
        let folder = bench.fresh();
        let write = |name: &str| {
            format!("cat > {}/{name}; echo $WORD >> {}/{name}", folder.display(), folder.display())
        };
        let mut spec = bench.script("echo ran");
        spec.hooks = vec![
            hook(HookName::CreateRuntime, &write("runtime")),
            hook(HookName::CreateContainer, &write("container")),
        ];
        let ran = run_on(&executor, spec).await.unwrap();
        assert_eq!(ran.out, "ran\n", "{ran:?}");
        for name in ["runtime", "container"] {
            let told = std::fs::read_to_string(folder.join(name)).unwrap();
            assert!(told.contains("\"bundle\"") && told.ends_with("told\n"), "{told}");
        }
        let mut spec = bench.script("echo ran");
        spec.hooks = vec![hook(HookName::CreateContainer, "echo no such thing >&2; exit 3")];
        let ran = run_on(&executor, spec).await.unwrap();
        assert!(ran.exit.code != 0 && !ran.out.contains("ran"), "{ran:?}");
        executor.shutdown().await;
    }
}
