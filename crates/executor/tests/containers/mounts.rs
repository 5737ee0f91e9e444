//! Mounts of all kinds, and that their mount points leave no trace.

use std::path::Path;
use std::sync::Arc;

use kiln_executor::{FileSpec, Mount, MountSource, RunSpec, TmpfsSpec, Tree};
use kiln_store::MountSpec;

use crate::support::{Bench, bind, tmpfs};

crate::tests![
    flags,
    kinds,
    selectors,
    mount_points_go,
    mount_points_that_were_used_stay,
    times_are_kept,
    readonly_root,
    shared_memory,
    many_layers,
    modes_of_tmpfs
];

async fn flags(bench: Arc<Bench>) {
    let out = bench
        .output("for m in /dev /dev/mqueue /dev/pts /dev/shm /etc/hosts /etc/resolv.conf /proc /proc/bus /proc/fs /proc/irq /proc/sys /sys; do awk -v m=$m '$2 == m {ro = $4 ~ /^ro/ ? \"ro\" : \"rw\"; f = \"\"; n = split($4, o, \",\"); for (i = 1; i <= n; i++) if (o[i] ~ /^(nosuid|nodev|noexec)$/) f = f \" \" o[i]; print $2, (m ~ /etc/ ? \"file\" : $3), ro f}' /proc/mounts; done")
        .await;
    let expected = "\
/dev tmpfs rw nosuid
/dev/mqueue mqueue rw nosuid nodev noexec
/dev/pts devpts rw nosuid noexec
/dev/shm tmpfs rw nosuid nodev noexec
/etc/hosts file ro nosuid nodev noexec
/etc/resolv.conf file ro nosuid nodev noexec
/proc proc rw nosuid nodev noexec
/proc/bus proc ro nosuid nodev noexec
/proc/fs proc ro nosuid nodev noexec
/proc/irq proc ro nosuid nodev noexec
/proc/sys proc ro nosuid nodev noexec
/sys sysfs ro nosuid nodev noexec
";
    // Where no cgroup keeps devices away, file systems do.
    let nodev = if crate::support::has_cgroups() { "" } else { " nodev" };
    assert_eq!(out, expected.replace("tmpfs rw nosuid\n", &format!("tmpfs rw nosuid{nodev}\n")));
    // Nothing of what the root was assembled from can be seen.
    let out = bench.output("cut -d' ' -f2 /proc/mounts | sort | uniq -d; cut -d' ' -f2 /proc/mounts | grep -E '^/(files|stage|root|nodes)' ; wc -l < /proc/mounts").await;
    assert!(out.trim().parse::<u32>().unwrap() < 30, "{out}");
}

async fn kinds(bench: Arc<Bench>) {
    let folder = bench.fresh();
    std::fs::write(folder.join("f"), "from the host\n").unwrap();
    let socket = bench.fresh().join("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut spec = bench.script("cat /cache/f; echo more > /cache/new; stat -c '%a %u:%g %F' /run/secrets/s; cat /run/secrets/s; echo x 2>/dev/null > /run/secrets/s || echo secret read-only; test -S /run/agent && echo socket; echo x 2>/dev/null > /ro/new || echo read-only; stat -c %a /t; dd if=/dev/zero of=/t/big bs=1k count=2000 2>/dev/null || echo full; df /t | tail -1 | awk '{print $2}'");
    let secret = FileSpec { content: b"hush\n".as_slice().into(), mode: 0o440, uid: 7, gid: 8 };
    spec.mounts = vec![
        bind("/cache", &folder),
        Mount { readonly: true, ..bind("/ro", &folder) },
        Mount { dest: "/run/secrets/s".to_owned(), source: MountSource::File(secret), readonly: true },
        Mount { dest: "/run/agent".to_owned(), source: MountSource::Host(socket), readonly: false },
        Mount {
            dest: "t".to_owned(),
            source: MountSource::Tmpfs(TmpfsSpec {
                size: Some(1 << 20),
                mode: Some(0o1770),
                ..TmpfsSpec::default()
            }),
            readonly: false,
        },
    ];
    let ran = bench.run(spec).await;
    assert_eq!(
        ran.out,
        "from the host\n440 7:8 regular file\nhush\nsecret read-only\nsocket\nread-only\n1770\nfull\n1024\n",
        "{}",
        ran.err
    );
    assert_eq!(std::fs::read_to_string(folder.join("new")).unwrap(), "more\n");
}

async fn selectors(bench: Arc<Bench>) {
    let folder = bench.fresh();
    std::fs::create_dir(folder.join("sub")).unwrap();
    std::fs::write(folder.join("sub/f"), "sub\n").unwrap();
    std::os::unix::fs::symlink("/sub", folder.join("link")).unwrap();
    std::os::unix::fs::symlink("../../../../etc/passwd", folder.join("up")).unwrap();
    let (overlay, _) = bench.overlay(vec![folder.clone()]);
    let selected = |dest: &str, tree: MountSpec, selector: &str| Mount {
        dest: dest.to_owned(),
        source: MountSource::Tree { tree: Tree::Mount(tree), selector: selector.to_owned() },
        readonly: true,
    };
    let whole = MountSpec::Bind { path: folder, read_only: false };
    let mut spec = bench.script("cat /a/f /b /c/f /d/link/f");
    spec.mounts = vec![
        selected("/a", whole.clone(), "sub"),
        selected("/b", overlay.clone(), "/link/../sub/f"),
        selected("/c", overlay.clone(), "../../link"),
        selected("/d", overlay.clone(), "/"),
    ];
    let ran = bench.run(spec.clone()).await;
    // The link in /d is resolved by the process, in its own root.
    assert_eq!(ran.out, "sub\nsub\nsub\n", "{}", ran.err);
    for selector in ["up", "absent/dir"] {
        spec.mounts = vec![selected("/a", whole.clone(), selector)];
        let error = bench.try_run(spec.clone()).await.unwrap_err().to_string();
        assert!(error.contains(selector) && error.contains("/a"), "{error}");
    }
}

/// What a container left in its upper layer, by path.
fn left(upper: &Path) -> Vec<String> {
    let list = std::process::Command::new("find")
        .arg(upper)
        .args(["-mindepth", "1", "-printf", "%P\n"])
        .output()
        .unwrap();
    let mut lines: Vec<String> = String::from_utf8(list.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn with_upper(bench: &Bench, script: &str) -> (RunSpec, std::path::PathBuf) {
    let mut spec = bench.script(script);
    let (root, upper) = bench.overlay(vec![bench.lower()]);
    spec.root.tree = Tree::Mount(root);
    (spec, upper)
}

fn folder_of(bench: &Bench) -> Mount {
    bind("/var/cache/x", &bench.fresh())
}

async fn mount_points_go(bench: Arc<Bench>) {
    let (mut spec, upper) =
        with_upper(&bench, "echo x > /var/cache/x/f; echo y > /scratch/t/f; echo > /dev/sub/z");
    let file = FileSpec { content: b"s".as_slice().into(), mode: 0o400, uid: 0, gid: 0 };
    spec.mounts = vec![
        folder_of(&bench),
        tmpfs("/scratch/t"),
        tmpfs("/scratch/u/v"),
        Mount { dest: "/k/secret".to_owned(), source: MountSource::File(file), readonly: true },
        tmpfs("/dev/sub"),
    ];
    assert_eq!(bench.run(spec.clone()).await.exit.code, 0);
    assert_eq!(left(&upper), ["etc", "proc", "sys"]);
    // Also when the program cannot be run, and when the setup fails half-way.
    spec.process.args = vec!["/absent".to_owned()];
    assert_eq!(bench.run(spec.clone()).await.exit.code, 1);
    assert_eq!(left(&upper), ["etc", "proc", "sys"]);
}

async fn mount_points_that_were_used_stay(bench: Arc<Bench>) {
    let (mut spec, upper) = with_upper(&bench, "touch /scratch/mine; chmod 700 /other; mkdir /other/sub");
    spec.mounts = vec![tmpfs("/scratch/t"), tmpfs("/other/t")];
    assert_eq!(bench.run(spec).await.exit.code, 0);
    assert_eq!(left(&upper), ["dev", "etc", "other", "other/sub", "proc", "scratch", "scratch/mine", "sys"]);
}

async fn times_are_kept(bench: Arc<Bench>) {
    let (mut spec, upper) = with_upper(&bench, "true");
    spec.mounts = vec![tmpfs("/home/a"), tmpfs("/home/b/c"), tmpfs("/home/app/d")];
    let times = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let before = (times(&bench.lower().join("home")), times(&bench.lower().join("home/app")));
    assert_eq!(bench.run(spec).await.exit.code, 0);
    assert_eq!((times(&upper.join("home")), times(&upper.join("home/app"))), before);
}

async fn readonly_root(bench: Arc<Bench>) {
    let mut spec = bench.script(
        "touch /x 2>/dev/null || echo read-only; touch /t/x && echo writable; touch /dev/shm/x && echo shm",
    );
    spec.root.readonly = true;
    spec.mounts = vec![tmpfs("/t")];
    assert_eq!(bench.run(spec).await.out, "read-only\nwritable\nshm\n");
}

async fn shared_memory(bench: Arc<Bench>) {
    assert_eq!(
        bench.output("df -m /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm").await,
        "64\n1777\n"
    );
    let mut spec =
        bench.script("df -m /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm; touch /dev/shm/x");
    let source = MountSource::Tmpfs(TmpfsSpec { size: Some(128 << 20), ..TmpfsSpec::default() });
    spec.mounts = vec![Mount { dest: "/dev/shm".to_owned(), source, readonly: false }];
    assert_eq!(bench.run(spec).await.out, "128\n1777\n");
}

async fn modes_of_tmpfs(bench: Arc<Bench>) {
    let mut spec = bench.script("stat -c '%a %u' /tmp /brand/new /bin");
    spec.mounts = vec![tmpfs("/tmp"), tmpfs("/brand/new"), tmpfs("/root")];
    assert_eq!(bench.run(spec).await.out, "1777 0\n755 0\n755 0\n");
}

async fn many_layers(bench: Arc<Bench>) {
    let mut lowers: Vec<_> = (0..126)
        .map(|n| {
            let layer = bench.fresh();
            std::fs::write(layer.join(format!("layer{n}")), "").unwrap();
            layer
        })
        .collect();
    lowers.push(bench.lower());
    let mut spec = bench.script("ls -d /layer* | wc -l");
    spec.root.tree = Tree::Mount(bench.overlay(lowers).0);
    assert_eq!(bench.run(spec).await.out, "126\n");
}
