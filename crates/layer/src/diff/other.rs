//! Hosts whose trees this program cannot read yet.

use std::io::Write;

use kiln_fstree::Root;

use super::DiffOptions;
use crate::{
    compress::Written,
    error::{Error, Result},
};

/// Which trees to compare.
pub(super) enum Walk {
    Upper,
    Complete,
}

pub(super) fn write<W: Write>(
    _: &Root,
    _: Option<&Root>,
    walk: Walk,
    _: W,
    _: &DiffOptions,
) -> Result<(W, Written)> {
    let what = match walk {
        Walk::Upper => "writing layers of overlayfs on this system",
        Walk::Complete => "writing layers on this system",
    };
    Err(Error::Unsupported(what.into()))
}
