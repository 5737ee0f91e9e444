use super::*;
use crate::lint::Linter;

const TEXT: &str = "# base of all\nFROM busybox AS base\nFROM --platform=$X base\nLABEL a=b\n";

#[test]
fn targets() {
    let list = TargetList::new(&crate::parse(TEXT).unwrap(), TEXT.as_bytes());
    assert_eq!(list.text(), "TARGET    DESCRIPTION\nbase      of all\n(default) \n");
    let json: serde_json::Value = serde_json::from_str(&list.json()).unwrap();
    assert_eq!(json["targets"][0]["description"], "of all");
    assert_eq!(json["targets"][1]["platform"], "$X");
    assert_eq!(json["targets"][1]["default"], true);
    assert_eq!(json["targets"][1]["location"]["ranges"][0]["start"]["line"], 3);
    assert_eq!(json["targets"][0].get("default"), None);
    assert_eq!(serde_json::from_str::<TargetList>(&list.json()).unwrap(), list);
}

#[test]
fn lint_results() {
    let text = "FROM a AS B\nRUN c\nMAINTAINER d\n";
    let mut linter = Linter::default();
    crate::parse_linted(text, &mut linter).unwrap();
    let results = LintResults::new(("Dockerfile", text.as_bytes()), None, linter.warnings(), None);
    assert!(results.text().starts_with(
        "\nWARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n\
         Stage name 'B' should be lowercase\nDockerfile:1\n--------------------\n   1 | >>> FROM a AS B\n"
    ));
    assert_eq!(results.status_code(), 1);
    let json: serde_json::Value = serde_json::from_str(&results.json()).unwrap();
    assert_eq!(json["warnings"][1]["ruleName"], "MaintainerDeprecated");
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    assert_eq!(serde_json::from_str::<LintResults>(&results.json()).unwrap(), results);
}

#[test]
fn lint_results_with_an_error() {
    let text = "FROM a\nBADCMD\n";
    let errors = crate::parse(text).unwrap_err();
    let error = BuildError::new(&errors, errors.first().blamed());
    let results = LintResults::new(("Dockerfile", text.as_bytes()), None, &[], Some(error));
    let json: serde_json::Value = serde_json::from_str(&results.json()).unwrap();
    assert!(json["warnings"].is_null());
    assert_eq!(
        json["buildError"]["message"],
        "dockerfile parse error on line 2: unknown instruction: BADCMD"
    );
    assert!(results.error_text().contains("   2 | >>> BADCMD"));
    // Go escapes what browsers may take for markup.
    let error = BuildError::new("a<b", Span::default());
    let escaped = LintResults::new(("a&b", b"x"), None, &[], Some(error)).json();
    assert!(escaped.contains(r"a\u003cb") && escaped.contains(r"a\u0026b"));
    assert_eq!((results.status_code(), results.text().as_str()), (1, ""));
}

#[test]
fn outline() {
    let arg = |name: &str, value: &str, line| OutlineArg {
        name: name.to_owned(),
        value: value.to_owned(),
        location: Location::of(Span::line(line)),
        ..OutlineArg::default()
    };
    let mut outline = Outline {
        description: "is it".to_owned(),
        args: vec![arg("LONGER", "", 3), arg("A", "1", 2)],
        secrets: vec![OutlineSecret { name: "s".to_owned(), required: true, location: None }],
        ssh: vec![OutlineSsh { name: "default".to_owned(), required: false, location: None }],
        ..Outline::default()
    };
    outline.sort();
    let expected = "TARGET:      (default)\nDESCRIPTION: is it\n\n\
                    BUILD ARG   VALUE   DESCRIPTION\nA           1       \nLONGER              \n\n\
                    SECRET   REQUIRED\ns        true\n\nSSH       REQUIRED\ndefault   \n\n";
    assert_eq!(outline.text(), expected);
    assert_eq!(serde_json::from_str::<Outline>(&outline.json()).unwrap(), outline);
}

#[test]
fn description() {
    let list = describe();
    let text = describe_text(&list);
    assert!(
        text.starts_with("NAME                 VERSION DESCRIPTION\noutline              1.0.0   "),
        "{text}"
    );
    assert!(list.iter().all(|d| SubRequest::parse(&d.name).is_some()));
    let json: serde_json::Value = serde_json::from_str(&Described::json(&list)).unwrap();
    assert_eq!(json[0]["type"], "rpc");
    assert!(json[0]["inputs"].is_null());
}
