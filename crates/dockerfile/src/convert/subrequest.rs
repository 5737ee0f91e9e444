//! Answers to sub-requests, as the metadata of a result.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::failure::refuse;
use super::resolver::Resolver;
use super::{Failure, Options, Source, lint, outline};
use crate::subrequest::{BuildError, Described, LintResults, SubRequest, TargetList, VERSION, describe, describe_text};

/// Answers the request of this name: `frontend.lint`, `frontend.outline`, `frontend.targets`,
/// `frontend.subrequests.describe`.
///
/// # Errors
/// When there is no such request, or the Dockerfile can't be read (a lint says so in its answer).
pub async fn answer<R: Resolver>(
    name: &str,
    source: &Source,
    options: &Options,
    resolver: &R,
) -> Result<BTreeMap<String, Bytes>, Failure> {
    let request = SubRequest::parse(name).ok_or_else(|| refuse(format!("unsupported request {name}")))?;
    let mut answer = BTreeMap::from([("version".to_owned(), Bytes::from_static(VERSION.as_bytes()))]);
    let mut say = |key: &str, value: String| drop(answer.insert(key.to_owned(), Bytes::from(value)));
    let (json, text) = match request {
        SubRequest::Lint => {
            let (warnings, failure) = lint(source, options, resolver).await;
            let error = failure.map(|f| BuildError::new(&f, f.span().unwrap_or_default()));
            let results = LintResults::new(&source.filename, &source.data, &warnings, error);
            say("result.statuscode", results.status_code().to_string());
            (results.json(), results.text())
        }
        SubRequest::Outline => {
            let outline = outline(source, options, resolver).await?;
            (outline.json(), outline.text())
        }
        SubRequest::Targets => {
            let list = TargetList::new(&crate::parse(&source.text)?, &source.data);
            (list.json(), list.text())
        }
        SubRequest::Describe => {
            let list = describe();
            (Described::json(&list), describe_text(&list))
        }
    };
    say("result.json", json);
    say("result.txt", text);
    Ok(answer)
}
