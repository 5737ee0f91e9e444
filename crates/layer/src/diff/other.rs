//! Hosts whose trees this program cannot read yet.

use std::io::Write;

use kiln_fstree::Root;

use super::{DiffOptions, Times};
use crate::{
    compress::{LayerWriter, Written},
    error::{Error, Result},
    tar::TarWriter,
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

/// Archives of trees; what is not a tree can be written here too.
pub(super) struct Archive<W> {
    tar: TarWriter<LayerWriter<W>>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: LayerWriter<W>) -> Self {
        Archive { tar: TarWriter::new(out) }
    }

    pub(super) fn tar(&mut self) -> &mut TarWriter<LayerWriter<W>> {
        &mut self.tar
    }

    pub(super) fn into_tar(self) -> TarWriter<LayerWriter<W>> {
        self.tar
    }

    pub(super) fn tree(&mut self, _: &str, _: &Root, _: Times) -> Result<()> {
        Err(Error::Unsupported("writing archives of trees on this system".into()))
    }
}
