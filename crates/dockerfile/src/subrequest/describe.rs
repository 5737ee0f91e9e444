//! `frontend.subrequests.describe`

use serde::{Deserialize, Serialize};

use super::table::table;
use super::{SubRequest, VERSION, to_json};

/// A sub-request that a frontend answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// Its name on the wire.
    pub name: String,
    /// Version of its answer.
    pub version: String,
    /// How it is asked: always `rpc`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it answers.
    pub description: String,
    /// Options it takes.
    pub opts: Option<Vec<Named>>,
    /// Inputs it takes.
    pub inputs: Option<Vec<Named>>,
    /// Documents in its answer.
    pub metadata: Option<Vec<Named>>,
    /// Results in its answer.
    pub refs: Option<Vec<Named>>,
}

/// A name with a description.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The description.
    pub description: String,
}

fn named(name: &str, description: &str) -> Named {
    Named { name: name.to_owned(), description: description.to_owned() }
}

fn described(request: SubRequest, description: &str, opts: Option<Vec<Named>>) -> Described {
    Described {
        name: request.name().to_owned(),
        version: VERSION.to_owned(),
        kind: "rpc".to_owned(),
        description: description.to_owned(),
        opts,
        inputs: None,
        metadata: Some(vec![named("result.json", ""), named("result.txt", "")]),
        refs: None,
    }
}

/// The sub-requests that the Dockerfile frontend lists. As in the reference, `frontend.lint` is answered but not
/// listed: clients that know it ask without looking.
#[must_use]
pub fn describe() -> Vec<Described> {
    vec![
        described(
            SubRequest::Outline,
            "List all parameters current build target supports",
            Some(vec![named("target", "Target build stage")]),
        ),
        described(SubRequest::Targets, "List all targets current build supports", Some(Vec::new())),
        described(SubRequest::Describe, "List available subrequest types", None),
    ]
}

impl Described {
    /// The document `result.json` of a list.
    #[must_use]
    pub fn json(list: &[Self]) -> String {
        to_json(&list)
    }
}

/// The document `result.txt` of a list.
#[must_use]
pub fn describe_text(list: &[Described]) -> String {
    let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"]];
    rows.extend(list.iter().map(|request| {
        let name = request.name.strip_prefix("frontend.").unwrap_or(&request.name);
        [name, request.version.as_str(), request.description.as_str()]
    }));
    table(&rows, 1)
}
