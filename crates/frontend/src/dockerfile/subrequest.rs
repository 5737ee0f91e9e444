//! Questions about a Dockerfile that build nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use kiln_dockerfile::{
    convert::{self, Options, Source},
    subrequest::{BuildError, Described, LintResults, SubRequest, TargetList, describe, describe_text},
};
use kiln_proto::status::{Detail, WireError};
use tonic::Code;

use super::{failure, resolver::BridgeResolver, warn};
use crate::{Bridge, FrontendResult, Refs, errors::wire_error};

/// Answers the sub-request `name`.
pub(super) async fn answer(
    bridge: &Bridge,
    name: &str,
    source: &Source,
    options: &Options,
    resolver: &BridgeResolver<'_>,
) -> Result<FrontendResult, WireError> {
    let Some(request) = SubRequest::parse(name) else {
        let message = format!("unsupported request {name}");
        return Err(WireError::new(Code::Unimplemented, message).with(Detail::Subrequest(name.to_owned())));
    };
    let data = &source.data;
    let mut metadata: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut put = |name: &str, text: String| metadata.insert(name.to_owned(), text.into());
    match request {
        SubRequest::Describe => {
            let all = describe();
            put("result.json", Described::json(&all));
            put("result.txt", describe_text(&all));
        }
        SubRequest::Targets => {
            let text = String::from_utf8_lossy(data);
            let file = kiln_dockerfile::parse(&text).map_err(|e| failure(e.into(), Some(source)))?;
            let targets = TargetList::new(&file, data);
            put("result.json", targets.json());
            put("result.txt", targets.text());
        }
        SubRequest::Outline => {
            // Clients are told what the linter found, as by a build.
            let outline = match convert::outline(source, options, resolver).await {
                Ok((outline, warnings)) => {
                    warn(bridge, source, &warnings);
                    outline
                }
                Err(failed) => {
                    warn(bridge, source, &failed.warnings);
                    return Err(failure(failed.failure, Some(source)));
                }
            };
            put("result.json", outline.json());
            put("result.txt", outline.text());
        }
        SubRequest::Lint => {
            let (warnings, error) = convert::lint(source, options, resolver).await;
            let error = error.map(|e| {
                let span = e.span().unwrap_or_default();
                BuildError::new(&e, span)
            });
            let results =
                LintResults::new((&source.filename, data), Some(&source.definition), &warnings, error);
            put("result.json", results.json());
            put("result.txt", results.text());
            put("result.statuscode", results.status_code().to_string());
        }
        #[expect(unreachable_patterns, reason = "a sub-request that is added must be answered or refused")]
        _ => return Err(wire_error(format_args!("sub-request {name} is not supported yet"))),
    }
    put_version(&mut metadata);
    Ok(FrontendResult { refs: Refs::Single(None), metadata, attestations: BTreeMap::new() })
}

fn put_version(metadata: &mut BTreeMap<String, Bytes>) {
    metadata.insert("version".to_owned(), kiln_dockerfile::subrequest::VERSION.into());
}
