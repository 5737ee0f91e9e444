//! Roots and specs that want out.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use kiln_executor::{Mount, MountSource, Tree};
use kiln_store::MountSpec;

use crate::support::{Bench, bind, tmpfs};

crate::tests![
    destinations_through_links,
    climbing_destinations,
    refused_destinations,
    linked_kernel_files,
    linked_user_files,
    mount_points_are_not_followed,
    the_executable_is_out_of_reach,
    shared_cache_races,
];

/// A layer with links that lead out of the root, over the usual one.
fn lowers(bench: &Bench, links: &[(&str, &str)]) -> Vec<std::path::PathBuf> {
    let layer = bench.fresh();
    for (name, target) in links {
        std::fs::create_dir_all(layer.join(name).parent().unwrap()).unwrap();
        symlink(target, layer.join(name)).unwrap();
    }
    vec![layer, bench.lower()]
}

async fn destinations_through_links(bench: Arc<Bench>) {
    let outside = bench.fresh();
    let target = outside.join("made-by-mount");
    let links = [
        ("abs", target.to_str().unwrap()),
        ("up", "../../../../../../../../tmp/inside"),
        ("proc-link", "/proc/1/root/tmp/out"),
        ("chain/a", "../abs"),
    ];
    let mut spec = bench.script("cut -d' ' -f2 /proc/mounts | grep -E 'x[0-9]$' | sort");
    spec.root.tree = Tree::Mount(bench.overlay(lowers(&bench, &links)).0);
    spec.mounts = vec![tmpfs("/abs/x1"), tmpfs("/up/x2"), tmpfs("/chain/a/x3")];
    let ran = bench.run(spec.clone()).await;
    let expected = format!("/tmp/inside/x2\n{0}/x1\n{0}/x3\n", target.display());
    assert_eq!(
        ran.out.lines().collect::<std::collections::BTreeSet<_>>(),
        expected.lines().collect(),
        "{}",
        ran.err
    );
    assert!(!target.exists() && !Path::new("/tmp/inside").exists());
    spec.mounts = vec![tmpfs("/proc-link/x4")];
    let error = bench.try_run(spec).await.unwrap_err().to_string();
    assert!(error.contains("/proc-link/x4"), "{error}");
}

async fn climbing_destinations(bench: Arc<Bench>) {
    let mut spec = bench.script("grep -oE ' /(tt|cc) [a-z0-9]*' /proc/mounts | cut -d' ' -f2");
    spec.mounts = vec![tmpfs("/../../../tt"), bind("../../cc", &bench.fresh())];
    assert_eq!(bench.run(spec).await.out, "/tt\n/cc\n");
}

async fn refused_destinations(bench: Arc<Bench>) {
    for dest in
        ["/", "..", "/.", "/proc", "/proc/sys", "/proc/1", "/proc/new", "/dev/fd/5", "/dev/../proc/self/fd"]
    {
        let mut spec = bench.script("true");
        spec.mounts = vec![tmpfs(dest)];
        let error = bench.try_run(spec).await.unwrap_err().to_string();
        assert!(error.contains(dest), "{dest}: {error}");
    }
}

async fn linked_kernel_files(bench: Arc<Bench>) {
    for name in ["proc", "sys"] {
        let mut spec = bench.script("true");
        spec.root.tree = Tree::Mount(bench.overlay(lowers(&bench, &[(name, "/tmp")])).0);
        let error = bench.try_run(spec).await.unwrap_err().to_string();
        assert!(error.contains(&format!("/{name}")), "{error}");
    }
    let mut spec = bench.script("readlink /dev; test -c /tmp/null && echo inside");
    spec.root.tree = Tree::Mount(bench.overlay(lowers(&bench, &[("dev", "/../../tmp")])).0);
    assert_eq!(bench.run(spec).await.out, "/../../tmp\ninside\n");
}

async fn linked_user_files(bench: Arc<Bench>) {
    // Links that lead out, pipes and devices as user files neither leak nor hang.
    let outside = bench.fresh().join("passwd");
    std::fs::write(&outside, "ghost:x:5:5::/:/bin/sh\n").unwrap();
    let mut spec = bench.script("echo ran");
    spec.process.user = "ghost".to_owned();
    spec.root.tree =
        Tree::Mount(bench.overlay(lowers(&bench, &[("etc/passwd", outside.to_str().unwrap())])).0);
    assert!(bench.try_run(spec.clone()).await.unwrap_err().to_string().contains("ghost"));
    let layer = bench.fresh();
    std::fs::create_dir(layer.join("etc")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(layer.join("etc/passwd")).status().unwrap().success());
    spec.root.tree = Tree::Mount(bench.overlay(vec![layer, bench.lower()]).0);
    assert!(bench.try_run(spec.clone()).await.unwrap_err().to_string().contains("ghost"));
    spec.process.user = "0".to_owned();
    assert_eq!(bench.run(spec).await.out, "ran\n");
}

async fn mount_points_are_not_followed(bench: Arc<Bench>) {
    // The step swaps the parent of a mount point for a link to where an empty file or folder of that name is.
    let victim = bench.fresh();
    std::fs::create_dir(victim.join("t")).unwrap();
    std::fs::write(victim.join("secret"), "").unwrap();
    let folder = bench.fresh();
    std::fs::create_dir(folder.join("t")).unwrap();
    let script = format!(
        "mv /s /moved; ln -s {0} /s; mkdir -p {0}/t; : > {0}/secret; ln -s {0} /link",
        victim.display()
    );
    let mut spec = bench.script(&script);
    spec.mounts = vec![tmpfs("/s/t")];
    let ran = bench.run(spec).await;
    assert_eq!(ran.exit.code, 0, "{}", ran.err);
    assert!(victim.join("t").exists() && victim.join("secret").exists());
}

async fn the_executable_is_out_of_reach(bench: Arc<Bench>) {
    let own = std::env::current_exe().unwrap();
    let before = std::fs::metadata(&own).unwrap();
    // A script whose interpreter is the file that runs it: before execve that is the helper.
    let layer = bench.fresh();
    std::fs::write(layer.join("evil"), "#!/proc/self/exe\n").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(layer.join("evil"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = bench.spec(&["/evil"]);
    spec.root.tree = Tree::Mount(bench.overlay(vec![layer, bench.lower()]).0);
    let ran = bench.run(spec).await;
    println!("    as interpreter: {:?}", ran.exit.code);
    // While further processes are being started, their executables are tried to be written.
    let script = "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] && continue; (echo x >> $p/exe) 2>/dev/null && echo WROTE; readlink $p/exe; done; done 2>/dev/null | grep -v busybox";
    let (io, output) = kiln_executor::ProcessIo::output(16);
    let executor: &dyn kiln_executor::Executor = &bench.executor;
    let container = executor.start(bench.script(script), io).await.unwrap();
    let collected = tokio::spawn(crate::support::collect(output));
    for _ in 0..100 {
        let spec = kiln_executor::ProcessSpec { args: vec!["true".to_owned()], ..Default::default() };
        let process = container.exec(spec, kiln_executor::ProcessIo::default()).await.unwrap();
        assert_eq!(process.wait().await.unwrap().code, 0);
    }
    container.kill();
    container.wait().await.unwrap();
    let (out, _) = collected.await.unwrap();
    assert!(!out.contains("WROTE") && !out.contains(own.to_str().unwrap()), "{out}");
    let after = std::fs::metadata(&own).unwrap();
    assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
}

async fn shared_cache_races(bench: Arc<Bench>) {
    // One container keeps swapping a folder of a shared cache for a link, others mount below it.
    let cache = bench.fresh();
    let outside = bench.fresh();
    let mut swapper = bench.script(&format!(
        "cd /c; while :; do mkdir -p d; rm -rf d; ln -s {} d; rm d; done",
        outside.display()
    ));
    swapper.mounts = vec![bind("/c", &cache)];
    let executor: &dyn kiln_executor::Executor = &bench.executor;
    let swapper = executor.start(swapper, kiln_executor::ProcessIo::default()).await.unwrap();
    for _ in 0..100 {
        let mut spec = bench.script("true");
        let tree = Tree::Mount(MountSpec::Bind { path: cache.clone(), read_only: false });
        let source = MountSource::Tree { tree, selector: String::new() };
        spec.mounts = vec![Mount { dest: "/c".to_owned(), source, readonly: false }, tmpfs("/c/d/made")];
        // It may fail, as things vanish under it, but not reach out.
        drop(bench.try_run(spec).await);
    }
    swapper.kill();
    swapper.wait().await.unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}
