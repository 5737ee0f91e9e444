//! The Dockerfile language as a library: text in; syntax tree with source ranges and diagnostics out.
//!
//! Pure functions: no files are opened, no environment is read, nothing is asynchronous but what
//! [`convert`] asks its caller for.
//!
//! ```
//! use kiln_dockerfile::lint::Linter;
//!
//! let text = "FROM busybox AS Base\nRUN echo hi\n";
//! let mut linter = Linter::for_file(text, None).unwrap();
//! let file = kiln_dockerfile::parse_linted(text, &mut linter).unwrap();
//! assert_eq!(file.stages[0].name(), Some("base"));
//! assert_eq!(linter.warnings()[0].message, "Stage name 'Base' should be lowercase");
//!
//! let errors = kiln_dockerfile::parse("FROM busybox\nRUNN true\n").unwrap_err();
//! assert_eq!(errors.first().suggestion(), Some("RUN"));
//! ```
//!
//! `examples/lint.rs` parses and lints a file, `examples/convert.rs` also converts it, with a [`convert::Resolver`] that
//! needs neither daemon nor network. What there is:
//!
//! - [`parse`], [`parse_linted`], [`parse_instruction`]: text to [`ast`], whose texts know their place ([`word`],
//!   [`span`])
//! - [`shell`]: variables and quotes
//! - [`lint`]: warnings, and where the converter reports more of them
//! - [`error`], [`render`]: what is wrong, and how to show it
//! - [`directives`], [`ignore`]: the comments at the top, the ignore file beside
//! - [`convert`]: to LLB and an image config
//! - [`subrequest`]: what a build can be asked for other than to run

pub mod ast;
pub mod convert;
pub mod directives;
pub mod error;
pub mod ignore;
pub mod lint;
pub mod render;
pub mod shell;
pub mod span;
pub mod subrequest;
pub mod word;

mod document;
mod instruction;
mod parser;
mod suggest;
mod text;
mod texts;

pub use ast::Dockerfile;
pub use bytestring::ByteString;
pub use document::{MAX_ERRORS, parse, parse_bytes, parse_instruction, parse_linted};
pub use error::{Error, ErrorKind, Errors};
pub use parser::{MAX_LINE, chomp};
pub use span::{Position, Span};
pub use text::csv_fields;
pub use word::Word;
