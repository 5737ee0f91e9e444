//! The Dockerfile language as a library: text in; syntax tree with source ranges and diagnostics out.
//!
//! Pure functions: no files are opened, no environment is read, nothing is asynchronous.
//!
//! - [`ast`] is the syntax tree, [`word`] and [`span`] are what it is made of.

pub mod ast;
pub mod directives;
pub mod error;
pub mod span;
pub mod word;

mod suggest;
mod text;

pub use ast::Dockerfile;
pub use error::{Error, ErrorKind, Errors};
pub use span::{Position, Span};
pub use word::Word;
