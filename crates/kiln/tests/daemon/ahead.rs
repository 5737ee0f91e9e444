//! Exports that begin while a build's last steps still run.

use std::path::Path;

use crate::support::{
    Bench, Build, Daemon, Image, Left, Pushed, Registry, alone, assert_sound, folder_for, wait_for,
};

/// Whether a blob of the daemon has this text in it.
fn is_packed(root: &Path, text: &str) -> bool {
    let blobs = std::fs::read_dir(root.join("kiln/content/blobs/sha256")).unwrap().flatten();
    let mut contents = blobs.filter_map(|blob| std::fs::read(blob.path()).ok());
    contents.any(|content| content.windows(text.len()).any(|part| part == text.as_bytes()))
}

#[test]
fn layers_are_packed_while_later_steps_run() {
    let Some(_alone) = alone() else { return };
    let registry = Registry::start(&Image::new());
    let folder = folder_for(&registry);
    let context = folder.path().join("context");
    std::fs::create_dir(&context).unwrap();
    let daemon = Daemon::start(folder.path());
    let build = |output: &str| {
        // What the first step writes is not in what it is told to.
        let text = format!(
            "FROM {}/base:latest\nRUN echo made-$((41+1))-{output} > /made\nRUN wget -q -O /dev/null http://{}/mark/{output} && sleep 100\n",
            registry.address, registry.address
        );
        std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
        let dest = folder.path().join(output).display().to_string();
        let output = format!("--output=type={output},dest={dest},compression=uncompressed");
        let output =
            if dest.ends_with("local") { output.replace(",compression=uncompressed", "") } else { output };
        Build::new(folder.path()).arg(output).start(&daemon.address())
    };
    let building = build("oci");
    wait_for("a layer", || is_packed(&folder.path().join("root"), "made-42-oci").then_some(()));
    assert!(!building.is_over());
    drop(building);
    // Nobody wants layers here.
    let building = build("local");
    registry.wait("local");
    assert!(!is_packed(&folder.path().join("root"), "made-42-local"));
    drop(building);
    daemon.stop();
    Left::no_processes();
    assert_sound(&folder.path().join("root"));
}

#[test]
fn blobs_are_pushed_while_later_steps_run_and_named_at_the_end() {
    let Some(_alone) = alone() else { return };
    let bench = Bench::new();
    let address = &bench.registry.address;
    let text = format!(
        "FROM BASE\nRUN echo made-$((41+1)) > /made\nRUN until wget -q -O /dev/null http://{address}/may/end; do sleep 0.1; done\n"
    );
    let output = format!("--output=type=image,name={address}/out:latest,push=true,compression=uncompressed");
    let building = bench.build(&text).arg(output).start(&bench.daemon.address());
    let is_made = |pushed: &Pushed| matches!(pushed, Pushed::Blob(blob) if blob.windows(7).any(|part| part == b"made-42"));
    wait_for("a pushed layer", || bench.registry.pushed().iter().any(is_made).then_some(()));
    assert!(!building.is_over());
    let is_manifest = |pushed: &Pushed| matches!(pushed, Pushed::Manifest(_));
    assert!(!bench.registry.pushed().iter().any(is_manifest));
    bench.registry.allow("end");
    let seen = building.end();
    assert!(seen.success, "{:#?}", seen.other);
    let pushed = bench.registry.pushed();
    assert_eq!(pushed.iter().filter(|pushed| is_made(pushed)).count(), 1);
    assert_eq!(pushed.last(), Some(&Pushed::Manifest("latest".to_owned())));
    bench.end();
}
