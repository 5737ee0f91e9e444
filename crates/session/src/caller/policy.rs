//! The client's say over sources.

use kiln_proto::{
    limits::Limited as _,
    policysession::{CheckPolicyRequest, CheckPolicyResponse, policy_verifier_client::PolicyVerifierClient},
};

use crate::{Error, Session};

/// Asks what the client thinks of a source: it decides, or wants to know more of it.
///
/// # Errors
/// The client's.
pub async fn check_policy(
    session: &Session,
    request: CheckPolicyRequest,
) -> Result<CheckPolicyResponse, Error> {
    let mut client = PolicyVerifierClient::new(session.channel()).limited();
    Ok(client.check_policy(request).await?.into_inner())
}
