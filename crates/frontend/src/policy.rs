//! The sources that a build may use: policies of the client and of frontends, and the client's own say, asked over its session.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use kiln_llb::{
    Graph,
    policy::{self, Policy, PolicyError},
    rewrite,
};
use kiln_ops::{Gate, Host};
use kiln_proto::{
    gateway::{ResolveSourceMetaRequest, ResolveSourceMetaResponse},
    pb::{self, op::Op},
    policysession::{CheckPolicyRequest, DecisionResponse, check_policy_response::Result as Answer},
    sourcepolicy::{self, PolicyAction},
    status::{Detail, WireError},
};
use kiln_session::{Session, caller};
use tonic::Code;

use crate::{Steps, errors::wire_error, sources::SourceReader};

/// How often the client is asked about one source: it may want to know more of it, or convert it.
const MAX_REQUESTS: usize = 10;
/// Sources that are judged at once.
const AT_ONCE: usize = 16;
/// How long the session that decides is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks policies as they came over the wire.
///
/// # Errors
/// `InvalidArgument` for rules that make no sense.
pub fn compile(policies: &[sourcepolicy::Policy]) -> Result<Vec<Policy>, WireError> {
    policies.iter().map(|policy| Policy::new(policy).map_err(refuse)).collect()
}

fn refuse(error: PolicyError) -> WireError {
    let code = match error {
        PolicyError::Denied { .. } => Code::PermissionDenied,
        _ => Code::InvalidArgument,
    };
    WireError::new(code, error.to_string())
}

/// Judges the sources of one build.
#[derive(Debug)]
pub struct SourcePolicies {
    sources: SourceReader,
    /// The build's, for all its definitions.
    own: Vec<Policy>,
    /// The session that has the last say; empty for none.
    session: String,
}

impl SourcePolicies {
    /// Those of a build: `policy` as its client sent it, and the session that decides beside it; empty for none.
    ///
    /// # Errors
    /// `InvalidArgument` for rules that make no sense.
    pub fn new(
        host: Arc<Host>,
        client: String,
        steps: Steps,
        policy: Option<&sourcepolicy::Policy>,
        session: String,
    ) -> Result<Arc<Self>, WireError> {
        let mut own = compile(policy.map(std::slice::from_ref).unwrap_or_default())?;
        own.retain(|policy| !policy.is_empty());
        Ok(Arc::new(Self { sources: SourceReader::new(host, client, steps), own, session }))
    }

    pub(crate) fn sources(&self) -> &SourceReader {
        &self.sources
    }

    /// A definition with the sources that may be used in place of those that it names; `more` are policies beside the build's.
    pub(crate) async fn admit(
        &self,
        definition: pb::Definition,
        more: &[Policy],
    ) -> Result<pb::Definition, WireError> {
        if self.is_silent(more) {
            return Ok(definition);
        }
        let invalid = |error: kiln_llb::Error| WireError::new(Code::InvalidArgument, error.to_string());
        let graph = Graph::decode(&definition).map_err(invalid)?;
        let found = graph.vertices().iter().filter_map(|vertex| match &vertex.op.op {
            Some(Op::Source(op)) => Some((vertex, op)),
            _ => None,
        });
        let judged: Vec<BoxFuture<'_, Result<_, WireError>>> = found
            .map(|(vertex, op)| -> BoxFuture<'_, Result<_, WireError>> {
                Box::pin(async move {
                    let other = self.judge(op, vertex.op.platform.as_ref(), more).await?;
                    Ok(other.map(|other| (vertex.digest.clone(), other)))
                })
            })
            .collect();
        let judged: Vec<_> = stream::iter(judged).buffer_unordered(AT_ONCE).try_collect().await?;
        let changed: HashMap<_, _> = judged.into_iter().flatten().collect();
        if changed.is_empty() {
            return Ok(definition);
        }
        rewrite::with_sources(&definition, &graph, &changed).map_err(invalid)
    }

    fn is_silent(&self, more: &[Policy]) -> bool {
        self.own.is_empty() && self.session.is_empty() && more.iter().all(Policy::is_empty)
    }

    /// What is to be used in place of a source; `None` is the source itself.
    pub(crate) async fn judge(
        &self,
        op: &pb::SourceOp,
        platform: Option<&pb::Platform>,
        more: &[Policy],
    ) -> Result<Option<pb::SourceOp>, WireError> {
        if self.is_silent(more) {
            return Ok(None);
        }
        // Many rules and many sources take a while; others want to run, too.
        tokio::task::yield_now().await;
        let policies = self.own.iter().chain(more);
        let session = match self.session.as_str() {
            "" => None,
            id => Some(self.sources.group().manager().get(id, PATIENCE).await.map_err(wire_error)?),
        };
        let (mut op, mut changed, mut requests) = (op.clone(), false, 0);
        loop {
            changed |= policy::evaluate(policies.clone(), &mut op).map_err(refuse)?;
            let Some(session) = &session else { break };
            match self.ask(session, &op, platform, &mut requests).await? {
                None => break,
                Some(other) => {
                    op = other;
                    changed = true;
                }
            }
        }
        Ok(changed.then_some(op))
    }

    /// The client's decision: a source to look at in place of this one, or none. Tells it what it asks for on the way.
    async fn ask(
        &self,
        session: &Session,
        op: &pb::SourceOp,
        platform: Option<&pb::Platform>,
        requests: &mut usize,
    ) -> Result<Option<pb::SourceOp>, WireError> {
        let name = &op.identifier;
        let mut known = ResolveSourceMetaResponse { source: Some(op.clone()), ..Default::default() };
        loop {
            *requests += 1;
            if *requests > MAX_REQUESTS {
                let message = format!("too many policy requests about {name} (at most {MAX_REQUESTS})");
                return Err(WireError::new(Code::FailedPrecondition, message));
            }
            let request = CheckPolicyRequest {
                platform: platform.cloned(),
                source: Some(known),
                ..CheckPolicyRequest::default()
            };
            let answer = caller::check_policy(session, request).await.map_err(wire_error)?;
            match answer.result {
                None => {
                    return Err(wire_error(format_args!("no decision in policy response about {name}")));
                }
                Some(Answer::Decision(decision)) => return decide(name, decision),
                Some(Answer::Request(request)) => known = self.tell(op, request).await?,
            }
        }
    }

    /// What a client wants to know of a source before it decides.
    async fn tell(
        &self,
        op: &pb::SourceOp,
        request: ResolveSourceMetaRequest,
    ) -> Result<ResolveSourceMetaResponse, WireError> {
        if request.source.as_ref() != Some(op) {
            let message = format!("policy requested a different source than {}", op.identifier);
            return Err(WireError::new(Code::InvalidArgument, message));
        }
        let told = self.sources.metadata(&request).await;
        told.map_err(|error| WireError {
            message: format!("resolving source metadata for a policy request: {}", error.message),
            ..error
        })
    }
}

impl Gate for SourcePolicies {
    fn admit(&self, definition: pb::Definition) -> BoxFuture<'_, Result<pb::Definition, String>> {
        Box::pin(async move { Self::admit(self, definition, &[]).await.map_err(|error| error.message) })
    }
}

/// Reads a decision about the source `name`: another source in its place, or none.
fn decide(name: &str, decision: DecisionResponse) -> Result<Option<pb::SourceOp>, WireError> {
    match PolicyAction::try_from(decision.action) {
        Ok(PolicyAction::Allow) => Ok(None),
        Ok(PolicyAction::Convert) => match decision.update {
            Some(update) => Ok(Some(update)),
            None => {
                Err(wire_error(format_args!("convert action requires updated source in place of {name}")))
            }
        },
        action => {
            let action = action.map_or_else(|_| decision.action.to_string(), |a| a.as_str_name().to_owned());
            let message = format!("source {name:?} not allowed by policy: action {action}");
            let error = WireError::new(Code::PermissionDenied, message);
            let reasons: Vec<_> = decision.deny_messages.into_iter().map(|deny| deny.message).collect();
            Err(if reasons.is_empty() { error } else { error.with(Detail::Denied(reasons)) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_proto::policysession::DenyMessage;

    fn decision(action: i32) -> DecisionResponse {
        DecisionResponse { action, ..DecisionResponse::default() }
    }

    #[test]
    fn decisions() {
        assert_eq!(decide("x", decision(0)).unwrap(), None);
        let update = pb::SourceOp { identifier: "y".into(), ..pb::SourceOp::default() };
        let convert = DecisionResponse { update: Some(update.clone()), ..decision(2) };
        assert_eq!(decide("x", convert).unwrap(), Some(update));
        assert!(decide("x", decision(2)).unwrap_err().message.contains("requires updated source"));
        assert!(decide("x", decision(9000)).unwrap_err().message.contains("9000"));
    }

    #[test]
    fn a_denial_says_why() {
        let deny_messages = vec![DenyMessage { message: "use busybox".into() }];
        let error = decide("x", DecisionResponse { deny_messages, ..decision(1) }).unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied);
        assert_eq!(error.details, [Detail::Denied(vec!["use busybox".into()])]);
        assert!(decide("x", decision(1)).unwrap_err().details.is_empty());
    }
}
