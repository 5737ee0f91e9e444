//! Which platforms a conversion is for and runs on.

use std::sync::Arc;

use kiln_oci::{ImageConfig, Platform};

use super::Options;

/// The platforms of a conversion.
#[derive(Debug, Clone)]
pub(super) struct Platforms {
    /// What the result is for.
    pub(super) target: Arc<Platform>,
    /// What steps run on.
    pub(super) build: Arc<Platform>,
    /// Nobody asked for the target: a base image may say otherwise.
    pub(super) implicit: bool,
}

impl Platforms {
    pub(super) fn new(options: &Options, target: Option<&Platform>) -> Self {
        Self {
            target: Arc::new(target.unwrap_or(&options.build_platform).clone()),
            build: Arc::new(options.build_platform.clone()),
            implicit: target.is_none(),
        }
    }

    /// The platform of an image that nobody asked a platform of.
    pub(super) fn detect(&self, image: &ImageConfig, wanted: Arc<Platform>) -> Arc<Platform> {
        let same = |p: &Platform| p.os == image.os && p.architecture == image.architecture;
        if !same(&wanted) && same(&self.build) { Arc::clone(&self.build) } else { wanted }
    }
}

/// Name and platform under which a result is exported: a Windows image fills in the version that nobody asked for.
pub fn export_platform(target: Option<&Platform>, image: &ImageConfig) -> (String, Platform) {
    let mut platform = target.cloned().unwrap_or_else(Platform::host).normalize();
    let id = platform.format_all();
    if platform.is_windows() && image.os == platform.os {
        if platform.os_version.is_empty() {
            platform.os_version.clone_from(&image.os_version);
        }
        if platform.os_features.is_empty() {
            platform.os_features.clone_from(&image.os_features);
        }
    }
    (id, platform.normalize())
}
