//! Devices of CDI specifications, from files on disk to what a step sees.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Bench, Daemon, Image, Left, Registry, alone, assert_sound, buildctl, folder_for};

const SPEC: &str = r#"
cdiVersion: "0.7.0"
kind: vendor.com/thing
annotations:
  maker: vendor
containerEdits:
  env: [THINGS=some, PATH=/bin:/thing]
  mounts:
  - {hostPath: FOLDER/lib, containerPath: /usr/lib/thing, options: [ro, nosuid, nodev, bind]}
devices:
- name: one
  annotations: {org.mobyproject.buildkit.device.autoallow: true}
  containerEdits:
    env: [ONE=1]
    additionalGids: [4242]
    deviceNodes:
    - {path: /dev/thing/one, hostPath: /dev/zero, permissions: r, fileMode: 0640, gid: 7}
- name: two
  containerEdits:
    env: [TWO=2]
- name: hooked
  containerEdits:
    hooks: [{hookName: createContainer, path: /bin/sh, args: [sh, -c, 'cat > FOLDER/state']}]
- name: late
  containerEdits:
    hooks: [{hookName: poststop, path: /bin/true}]
"#;

/// A bench whose daemon finds its devices in a folder that is written to later.
struct Devices {
    bench: Bench,
    specs: PathBuf,
}

impl Devices {
    fn new(more: &str) -> Self {
        let registry = Registry::start(&Image::new());
        let folder = folder_for(&registry);
        let specs = folder.path().join("cdi");
        for name in ["context", "cdi", "lib"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("lib/word"), "from the host\n").unwrap();
        let config = registry.config() + &format!("[cdi]\n  specDirs = [{specs:?}]\n{more}");
        std::fs::write(folder.path().join("buildkitd.toml"), config).unwrap();
        let daemon = Daemon::start(folder.path());
        Self { bench: Bench { registry, folder, daemon }, specs }
    }

    fn put(&self, name: &str, text: &str) {
        let text = text.replace("FOLDER", self.bench.path().to_str().unwrap());
        std::fs::write(self.specs.join(name), text).unwrap();
    }

    /// What `debug workers` tells of the devices.
    fn listed(&self) -> Vec<(String, bool)> {
        let text = buildctl(&self.bench.daemon.address(), &["debug", "workers", "--format={{json .}}"]);
        let workers: Value = serde_json::from_str(&text).unwrap();
        let devices = workers[0]["cdiDevices"].as_array().cloned().unwrap_or_default();
        let one = |device: &Value| {
            (device["name"].as_str().unwrap().to_owned(), device["autoAllow"].as_bool().unwrap_or_default())
        };
        devices.iter().map(one).collect()
    }

    fn run(&self, command: &str, allow: &[&str]) -> String {
        let out = self.bench.path().join("out");
        let text =
            format!("FROM BASE AS run\nRUN {command} > /said\nFROM scratch\nCOPY --from=run /said /\n");
        let mut build = self.bench.build(&text).arg(format!("--output=type=local,dest={}", out.display()));
        for name in allow {
            build = build.arg(format!("--allow={name}"));
        }
        build.run(&self.bench.daemon.address());
        std::fs::read_to_string(out.join("said")).unwrap()
    }
}

#[test]
fn steps_get_the_devices_that_they_ask_for() {
    let Some(_alone) = alone() else { return };
    let devices = Devices::new("");
    assert_eq!(devices.listed(), []);
    devices.put("vendor.yaml", SPEC);
    devices.put("broken.json", "{\"cdiVersion\": 1}");
    let name = |name: &str| format!("vendor.com/thing={name}");
    let listed = [("hooked", false), ("late", false), ("one", true), ("two", false)];
    assert_eq!(devices.listed(), listed.map(|(device, auto)| (name(device), auto)));
    let told = devices.bench.daemon.says("a CDI specification is not used");
    assert!(told.contains("broken.json"), "{told}");
    let look = "sh -c 'cat /usr/lib/thing/word; echo $THINGS $ONE $TWO $PATH; id -G; \
        stat -c \"%F %t:%T %a %u:%g\" /dev/thing/one; head -c1 /dev/thing/one | wc -c'";
    let said = devices.run(&format!("--device=vendor.com/thing=one,required {look}"), &[]);
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said[..2], ["from the host", "some 1 /bin:/thing"]);
    assert!(said[2].ends_with(" 4242"), "{said:?}");
    assert_eq!(said[3..], ["character special file 1:5 640 0:7", "1"]);
    // By grant, by alias, by everything; what is optional need not be there.
    let env = "sh -c 'echo $ONE $TWO'";
    assert_eq!(
        devices.run(
            &format!("--device=vendor.com/thing=two --device=other.com/x {env}"),
            &["device=vendor.com/thing=two"]
        ),
        "2\n"
    );
    assert_eq!(
        devices.run(&format!("--device=thing {env}"), &["device=vendor.com/thing=two,alias=thing"]),
        "2\n"
    );
    assert_eq!(devices.run(&format!("--device=vendor.com/thing=hooked {env}"), &["device"]), "\n");
    let state = std::fs::read_to_string(devices.bench.path().join("state")).unwrap();
    assert!(state.contains("/kiln/bundles/"), "{state}");
    devices.put("vendor.yaml", &SPEC[..SPEC.find("- name: hooked").unwrap()]);
    assert_eq!(devices.run(&format!("--device=vendor.com/thing=* {env}"), &["device"]), "1 2\n");
    devices.bench.end();
}

#[test]
fn what_a_step_does_not_get_is_named() {
    let Some(_alone) = alone() else { return };
    let devices = Devices::new("  autoAllowed = [\"vendor.com/thing\"]\n");
    let fails = |command: &str| devices.bench.fails(&format!("FROM BASE\nRUN --device={command} true\n"));
    let error = fails("vendor.com/thing=one,required");
    let folder = devices.specs.to_str().unwrap();
    assert!(
        error.contains("\"vendor.com/thing=one\" is not registered: no specification in ")
            && error.contains(folder),
        "{error}"
    );
    devices.put("vendor.yaml", SPEC);
    devices.put(
        "other.yaml",
        "{cdiVersion: 0.6.0, kind: other.com/x, devices: [{name: a, containerEdits: {env: [A=1]}}]}",
    );
    // The configuration lets all of the first kind be used.
    devices
        .bench
        .build("FROM BASE\nRUN --device=vendor.com/thing=two true\n")
        .run(&devices.bench.daemon.address());
    let error = fails("other.com/x");
    assert!(error.contains("device other.com/x=a is requested by the build but not allowed"), "{error}");
    let error = fails("vendor.com/thing=late");
    assert!(error.contains("poststop hook /bin/true") && error.contains("--oci-worker-binary"), "{error}");
    devices.put("gone.yaml", "{cdiVersion: 0.6.0, kind: gone.com/x, devices: [{name: a, containerEdits: {mounts: [{hostPath: FOLDER/gone, containerPath: /a}]}}]}");
    let error = devices
        .bench
        .build("FROM BASE\nRUN --device=gone.com/x=a true\n")
        .arg("--allow=device")
        .fail(&devices.bench.daemon.address());
    assert!(error.contains("cannot mount /a: ") && error.contains("/gone"), "{error}");
    devices.bench.end();
}

#[test]
fn devices_can_be_switched_off() {
    let Some(_alone) = alone() else { return };
    let devices = Devices::new("  disabled = true\n");
    devices.put("vendor.yaml", SPEC);
    assert_eq!(devices.listed(), []);
    let dockerfile = "FROM BASE\nRUN --device=vendor.com/thing=one,required true\n";
    let error = devices.bench.fails(dockerfile);
    assert!(error.contains("\"vendor.com/thing=one\"") && error.contains("cdi.disabled"), "{error}");
    let error = devices.bench.build(dockerfile).arg("--allow=device").fail(&devices.bench.daemon.address());
    assert!(error.contains("entitlement device is not allowed") && error.contains("cdi.disabled"), "{error}");
    let Devices { bench, .. } = devices;
    let root = bench.path().join("root");
    bench.build("FROM BASE\nRUN --device=vendor.com/thing=one true\n").run(&bench.daemon.address());
    bench.daemon.stop();
    Left::no_processes();
    assert_sound(&root);
}
