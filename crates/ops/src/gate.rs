//! What a build may make itself of, where steps bring definitions of their own.

use futures::future::BoxFuture;
use kiln_proto::pb;

/// Looks at the sources of a definition before anything of it is built.
pub trait Gate: std::fmt::Debug + Send + Sync {
    /// The definition with the sources that the build may use in place of those that it names.
    ///
    /// # Errors
    /// Why it may not be built.
    fn admit(&self, definition: pb::Definition) -> BoxFuture<'_, Result<pb::Definition, String>>;
}
