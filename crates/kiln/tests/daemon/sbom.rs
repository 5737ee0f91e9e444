//! SBOMs, made by an image that is run on a build's trees.

use std::path::Path;

use kiln_llb::build::{Constraints, File, Marshal, State};
use prost::Message as _;
use serde_json::Value;

use crate::support::{Build, Daemon, Image, Left, Registry, alone, assert_sound, folder_for};

/// Says what it is given: the file `word` of the result, the names of further trees, and the client's parameter.
const SCAN: &str = r#"
set -e
if (echo > "$BUILDKIT_SCAN_SOURCE/word") 2> /tmp/refused; then exit 9; fi
extras=
test -z "$BUILDKIT_SCAN_SOURCE_EXTRAS" || extras=$(echo $(ls "$BUILDKIT_SCAN_SOURCE_EXTRAS"))
cat > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json" <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"word": "$(cat "$BUILDKIT_SCAN_SOURCE/word")", "extras": "$extras", "told": "$BUILDKIT_SCAN_TOLD"}}
END
"#;

struct Bench {
    registry: Registry,
    folder: tempfile::TempDir,
    daemon: Daemon,
}

impl Bench {
    /// A daemon, and a registry with an image that scans.
    fn new() -> Self {
        let registry = Registry::start(&Image::new().with_entrypoint(&["/bin/sh", "-c", SCAN]));
        let folder = folder_for(&registry);
        std::fs::create_dir(folder.path().join("context")).unwrap();
        let daemon = Daemon::start(folder.path());
        Self { registry, folder, daemon }
    }

    fn image(&self) -> String {
        format!("{}/base:latest", self.registry.address)
    }

    fn dockerfile(&self, text: &str) -> Build {
        std::fs::write(self.folder.path().join("Dockerfile"), text.replace("BASE", &self.image())).unwrap();
        Build::new(self.folder.path())
    }

    /// What the scan of a build says.
    fn scan(&self, build: Build, name: &str) -> Value {
        let out = self.folder.path().join(name);
        let generator = format!("--opt=attest:sbom=generator={},TOLD=so", self.image());
        let output = format!("--output=type=local,dest={}", out.display());
        build.arg(generator).arg(output).run(&self.daemon.address());
        predicate(&out)
    }

    fn end(self) {
        self.daemon.stop();
        Left::no_processes();
        assert_sound(&self.folder.path().join("root"));
    }
}

fn predicate(out: &Path) -> Value {
    let statement = std::fs::read(out.join("sbom.spdx.json")).unwrap();
    let mut statement: Value = serde_json::from_slice(&statement).unwrap();
    // The files of a folder are the subjects.
    let subjects: Vec<Value> = statement["subject"].as_array().unwrap().clone();
    assert!(subjects.iter().any(|subject| subject["name"] == "word"), "{subjects:?}");
    statement["predicate"].take()
}

#[test]
fn dockerfiles_name_what_else_is_scanned() {
    let Some(_alone) = alone() else { return };
    let bench = Bench::new();
    let text = "FROM BASE AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN echo tool > /tool\n\
                FROM BASE AS other\nRUN echo other > /other\n\
                FROM scratch\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY --from=tools /tool /word\nCOPY --from=other /other /\n";
    let told = bench.scan(bench.dockerfile(text), "extras");
    assert_eq!(told, serde_json::json!({"word": "tool", "extras": "sbom-context sbom-tools", "told": "so"}));
    bench.end();
}

#[test]
fn definitions_are_scanned_as_well() {
    let Some(_alone) = alone() else { return };
    let bench = Bench::new();
    let file = File::new().mkfile("/word", 0o644, b"plain".to_vec(), None, None);
    let tree = State::scratch().file(file, Constraints::new());
    let definition = tree.marshal(&Marshal::new("sbom")).unwrap();
    let told = bench.scan(Build::definition(definition.encode_to_vec()), "definition");
    assert_eq!(told, serde_json::json!({"word": "plain", "extras": "", "told": "so"}));
    bench.end();
}

#[test]
fn generators_that_cannot_scan_are_told() {
    let Some(_alone) = alone() else { return };
    let bench = Bench::new();
    std::fs::write(bench.folder.path().join("context/word"), "word").unwrap();
    let build = || bench.dockerfile("FROM scratch\nCOPY word /\n");
    let fails =
        |option: &str| build().arg(format!("--opt=attest:sbom={option}")).fail(&bench.daemon.address());
    let said = fails("generator=127.0.0.1:1/none:1");
    assert!(said.contains("127.0.0.1:1/none:1"), "{said}");
    bench.registry.hold(&Image::new());
    let idle = format!("{}/base:idle", bench.registry.address);
    let said = fails(&format!("generator={idle}"));
    assert!(said.contains(&idle) && said.contains("neither entrypoint nor command"), "{said}");
    bench.end();
}
