//! SBOMs, made by an image that is run on a build's trees.

use std::path::Path;

use kiln_llb::build::{Constraints, File, Marshal, State};
use prost::Message as _;
use serde_json::Value;

use crate::support::{Bench, Build, Image, alone};

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

/// With a registry of an image that scans.
fn scanning() -> Bench {
    Bench::with(&Image::new().with_entrypoint(&["/bin/sh", "-c", SCAN]))
}

/// What the scan of a build says.
fn scan(bench: &Bench, build: Build) -> Value {
    let out = bench.path().join("out");
    let generator = format!("--opt=attest:sbom=generator={}/base:latest,TOLD=so", bench.registry.address);
    let output = format!("--output=type=local,dest={}", out.display());
    build.arg(generator).arg(output).run(&bench.daemon.address());
    predicate(&out)
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
    let bench = scanning();
    let text = "FROM BASE AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN echo tool > /tool\n\
                FROM BASE AS other\nRUN echo other > /other\n\
                FROM scratch\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY --from=tools /tool /word\nCOPY --from=other /other /\n";
    let told = scan(&bench, bench.build(text));
    assert_eq!(told, serde_json::json!({"word": "tool", "extras": "sbom-context sbom-tools", "told": "so"}));
    bench.end();
}

#[test]
fn definitions_are_scanned_as_well() {
    let Some(_alone) = alone() else { return };
    let bench = scanning();
    let file = File::new().mkfile("/word", 0o644, b"plain".to_vec(), None, None);
    let tree = State::scratch().file(file, Constraints::new());
    let definition = tree.marshal(&Marshal::new("sbom")).unwrap();
    let told = scan(&bench, Build::definition(definition.encode_to_vec()));
    assert_eq!(told, serde_json::json!({"word": "plain", "extras": "", "told": "so"}));
    bench.end();
}

#[test]
fn generators_that_cannot_scan_are_told() {
    let Some(_alone) = alone() else { return };
    let bench = scanning();
    std::fs::write(bench.path().join("context/word"), "word").unwrap();
    let build = || bench.build("FROM scratch\nCOPY word /\n");
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
