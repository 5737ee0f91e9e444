//! `kiln why` says of each step that ran why it did.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::support::{Build, Daemon, Image, KILN, Registry, Tar, alone, buildctl, folder_for};

const DOCKERFILE: &str = "\
FROM BASE
ARG VERSION=1
ENV MODE=fast
COPY app /app
RUN cat /app/one > /out && echo $VERSION >> /out
";

/// A folder, a registry and a daemon.
struct Bench {
    registry: Registry,
    folder: tempfile::TempDir,
    daemon: Daemon,
    options: Vec<&'static str>,
}

/// Busybox, and a file that tells versions apart.
fn base(version: &str) -> Image {
    let mut tar = Tar::default();
    tar.folder("bin");
    tar.file("bin/busybox", 0o755, &std::fs::read("/bin/busybox").unwrap());
    for name in ["sh", "cat", "true"] {
        tar.link(&format!("bin/{name}"), "busybox");
    }
    tar.file("version", 0o644, version.as_bytes());
    Image::of(vec![tar.finish()])
}

impl Bench {
    fn new() -> Self {
        let registry = Registry::start(&base("1"));
        let folder = folder_for(&registry);
        std::fs::create_dir_all(folder.path().join("context/app")).unwrap();
        let daemon = Daemon::start(folder.path());
        let bench = Self { registry, folder, daemon, options: Vec::new() };
        bench.file("one", "1");
        bench.file("two", "2");
        bench.dockerfile(DOCKERFILE);
        bench
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.path().join("context/app").join(name), text).unwrap();
    }

    fn dockerfile(&self, text: &str) {
        let base = format!("{}/base:latest", self.registry.address);
        std::fs::write(self.path().join("Dockerfile"), text.replace("BASE", &base)).unwrap();
    }

    fn request(&self) -> Build {
        let request = Build::new(self.path());
        self.options.iter().fold(request, |request, option| request.arg(format!("--opt={option}")))
    }

    /// Builds, and asks why.
    fn why(&self) -> Why {
        self.request().run(&self.daemon.address());
        self.last()
    }

    fn last(&self) -> Why {
        Why {
            json: serde_json::from_str(&self.kiln(&["LAST", "--json"]).unwrap()).unwrap(),
            text: self.kiln(&[]).unwrap(),
        }
    }

    /// `kiln why`: what it says, or its error.
    fn kiln(&self, args: &[&str]) -> Result<String, String> {
        why(&["--addr", &self.daemon.address()], args)
    }
}

fn why(daemon: &[&str], args: &[&str]) -> Result<String, String> {
    let output = Command::new(KILN).args(daemon).arg("why").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// What was said of a build.
struct Why {
    json: Value,
    text: String,
}

impl Why {
    fn step(&self, name: &str) -> &Value {
        let steps = self.json["steps"].as_array().unwrap();
        steps
            .iter()
            .find(|s| s["name"].as_str().unwrap().contains(name))
            .unwrap_or_else(|| panic!("{:#}", self.json))
    }

    /// Status and cause.
    fn end(&self, name: &str) -> (&str, &str) {
        let step = self.step(name);
        (step["status"].as_str().unwrap(), step["cause"].as_str().unwrap_or_default())
    }

    /// Kind, name and change of each difference.
    fn differences(&self, name: &str) -> Vec<[&str; 3]> {
        let all = self.step(name)["differences"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter()
            .map(|d| ["kind", "name", "change"].map(|key| d[key].as_str().unwrap_or_default()))
            .collect()
    }

    #[track_caller]
    fn says(&self, words: &str) {
        assert!(self.text.contains(words), "{words:?} is not in\n{}", self.text);
    }
}

const COPY: &str = "COPY app";
const RUN: &str = "RUN ";

#[test]
fn each_change_is_told_by_what_it_is() {
    let Some(_alone) = alone() else { return };
    let mut bench = Bench::new();
    assert!(bench.kiln(&[]).unwrap_err().contains("no build has ended here yet"));

    let first = bench.why();
    assert_eq!(first.end(COPY), ("ran", "no-earlier-build"));
    first.says("no earlier build of this is known");

    let same = bench.why();
    assert_eq!((same.end(COPY), same.end(RUN)), (("cached", ""), ("cached", "")));
    same.says("succeeded: 0 steps ran, 2 were cached");
    assert_eq!(same.step(COPY)["found_by"], "content");

    bench.file("one", "changed");
    bench.file("new", "");
    std::fs::remove_file(bench.path().join("context/app/two")).unwrap();
    let file = bench.why();
    assert_eq!(file.end(COPY), ("ran", "changed"));
    let changes =
        [["file", "app/new", "added"], ["file", "app/one", "changed"], ["file", "app/two", "removed"]];
    assert_eq!(file.differences(COPY), changes);
    assert_eq!(file.end(RUN), ("ran", "follows"));
    assert_eq!(file.step(RUN)["roots"][0]["differences"].as_array().unwrap().len(), 3);
    file.says("file app/one changed\n");
    file.says("follows step 2\n");

    bench.options = vec!["build-arg:VERSION=2"];
    let argument = bench.why();
    assert_eq!((argument.end(COPY), argument.end(RUN)), (("cached", ""), ("ran", "changed")));
    assert_eq!(argument.differences(RUN), [["build-arg", "VERSION", "changed"]]);
    argument.says("build-arg VERSION: \"1\" → \"2\"\n");

    let slow = DOCKERFILE.replace("MODE=fast", "MODE=slow");
    bench.dockerfile(&slow);
    let env = bench.why();
    assert_eq!(env.differences(RUN), [["env", "MODE", "changed"]]);
    env.says("env MODE: \"fast\" → \"slow\"\n");

    let mounted = slow.replace("RUN ", "RUN --mount=type=tmpfs,target=/t ");
    bench.dockerfile(&mounted);
    let mount = bench.why();
    assert_eq!(mount.differences(RUN), [["mount", "/t", "added"]]);
    mount.says("mount /t is new: \"type=tmpfs\"\n");

    bench.dockerfile(&mounted.replace("cat /app/one", "cat /app/one /app/new"));
    let command = bench.why();
    assert_eq!(command.differences(RUN), [["command", "", "changed"]]);

    bench.registry.hold(&base("2"));
    let image = bench.why();
    assert_eq!(image.end(COPY), ("ran", "changed"));
    let name = format!("{}/base:latest", bench.registry.address);
    assert_eq!(image.differences(COPY), [["image", name.as_str(), "changed"]]);
    image.says(&format!("image {name}: sha256:"));
    assert_eq!(image.end(RUN), ("ran", "follows"));
}

#[test]
fn what_is_no_change_is_told_too() {
    let Some(_alone) = alone() else { return };
    let mut bench = Bench::new();
    bench.why();

    bench.options = vec!["no-cache="];
    let ignored = bench.why();
    assert_eq!((ignored.end(COPY), ignored.end(RUN)), (("ran", "ignored"), ("ran", "ignored")));
    ignored.says("ignored the cache: the build was asked for with --no-cache\n");
    bench.options.clear();

    buildctl(&bench.daemon.address(), &["prune", "--all"]);
    let removed = bench.why();
    assert_eq!(removed.end(RUN), ("ran", "removed"));
    removed.says("but its result has been removed since");

    bench.dockerfile(&DOCKERFILE.replace("cat /app/one", "cat /app/missing"));
    bench.request().fail(&bench.daemon.address());
    let failed = bench.last();
    assert_eq!(failed.json["build"]["outcome"], "failed");
    assert_eq!(failed.end(RUN), ("failed", "changed"));
    // It is compared with what had a result, and its own failure is no result.
    bench.request().fail(&bench.daemon.address());
    assert_eq!(bench.last().end(RUN), ("failed", "changed"));

    let stages = format!("{DOCKERFILE}FROM scratch\nCOPY --from=0 /out /out\n");
    bench.dockerfile(&stages);
    bench.why();
    assert_eq!(bench.why().end("COPY --from=0"), ("cached", ""));
    bench.file("one", "changed");
    // What the last build used was found by its definition; what that was, the one before knows.
    let copied = bench.why();
    assert_eq!(copied.differences("COPY --from=0"), [["file", "out", "changed"]]);
    bench.file("one", "1");

    bench.dockerfile(&format!("{DOCKERFILE}RUN true\n"));
    let new = bench.why();
    assert_eq!((new.end("RUN cat"), new.end("RUN true")), (("cached", ""), ("ran", "new-step")));
}

#[test]
fn builds_and_steps_are_found_also_without_a_daemon() {
    let Some(_alone) = alone() else { return };
    let bench = Bench::new();
    let first = bench.why().json["build"]["ref"].as_str().unwrap().to_owned();
    bench.file("one", "changed");
    bench.why();
    let root = bench.path().join("root");
    let records = root.join("kiln/history/builds");
    std::fs::write(records.join("0000000000001-damaged"), "KILNREC1 and no more").unwrap();

    let of_first: Value = serde_json::from_str(&bench.kiln(&[&first, "3", "--json"]).unwrap()).unwrap();
    assert_eq!(of_first["build"]["ref"], first.as_str());
    let steps = of_first["steps"].as_array().unwrap();
    assert_eq!((steps.len(), steps[0]["cause"].as_str()), (1, Some("no-earlier-build")));
    assert!(of_first.get("compared_with").is_none());

    let step = bench.kiln(&["last", "[2/3]"]).unwrap();
    assert!(step.contains("Step 2: [2/3] COPY app /app\n  at       Dockerfile:4\n"), "{step}");
    assert!(step.contains("  why      file app/one changed\n"), "{step}");
    assert!(step.contains("input 1  [internal] load build context by content sha256:"), "{step}");
    assert!(step.contains("Warning: a record is left out") && step.contains("-damaged"), "{step}");
    assert!(bench.kiln(&["LAST", "nothing"]).unwrap_err().contains("no step of the build is called"));
    assert!(bench.kiln(&["nothing"]).unwrap_err().contains(&first));

    let Bench { daemon, folder, .. } = bench;
    daemon.stop();
    let alone = why(&["--root", root.to_str().unwrap()], &["LAST", "2"]).unwrap();
    assert_eq!(alone, step);
    drop(folder);
}
