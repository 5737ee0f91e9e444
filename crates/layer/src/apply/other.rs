//! Hosts without `openat2`.

use std::path::PathBuf;

use kiln_fstree::Root;

use super::{Applied, ApplyOptions};
use crate::{
    compress::Decompressed,
    error::{Error, Result},
};

fn unsupported<T>() -> Result<T> {
    Err(Error::Unsupported("unpacking layers on this system".into()))
}

pub(super) fn apply(_: Decompressed, _: &Root, _: &ApplyOptions) -> Result<Applied> {
    unsupported()
}

pub(super) fn adopt_parents(_: &Root, _: &[PathBuf], _: &Root) -> Result<()> {
    unsupported()
}
