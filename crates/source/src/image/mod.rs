//! Images: of registries and of OCI layouts that a client has.

mod attestations;
mod kept;
mod place;
mod resolve;
mod source;

pub use attestations::AttestationChain;
pub(crate) use place::Where;
pub use place::{Place, media_type_of};
pub use resolve::{Request, ResolvedImage, Resolver};
pub(crate) use source::ImageSource;
