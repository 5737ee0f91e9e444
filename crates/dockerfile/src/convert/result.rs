//! What a conversion comes out as.

use std::sync::Arc;

use kiln_llb::build::State;
use kiln_oci::{ImageConfig, Platform, Time};
use kiln_proto::pb;

use super::Converter;
use super::failure::Failure;
use super::ignore::Ignore;
use super::resolver::Resolver;
use super::stage::Stage;
use crate::lint::Warning;

/// One platform of a result.
#[derive(Debug, Clone)]
pub struct Converted {
    /// What to build; empty if the result is scratch.
    pub definition: pb::Definition,
    /// The image's config; layers are added by whoever exports it.
    pub image: ImageConfig,
    /// The config of the base image as it was, if there is one.
    pub base_image: Option<ImageConfig>,
    /// The time that the build asked for.
    pub epoch: Option<Time>,
    /// What the linter found. Of several platforms, the first one's count.
    pub warnings: Vec<Warning>,
    /// The target is built anew, and so should be what is said about it.
    pub ignore_cache: bool,
    /// What should be scanned besides the result: stages by name, and `context`.
    pub scan: Vec<(String, pb::Definition)>,
}

impl<R: Resolver> Converter<'_, R> {
    /// The result, once all stages were walked.
    pub(super) async fn finish(mut self, target: usize) -> Result<Converted, Failure> {
        self.linter.error()?;
        self.fill_contexts();
        let options = self.marshal_options();
        let mut scan = Vec::new();
        let mut ignore_cache = self.stages.list[target].ignore_cache;
        if self.stages.list[target].scan_context {
            scan.push(("context".to_owned(), self.context.marshal(&options)?));
        }
        for index in self.stages.reachable(target) {
            let stage = &self.stages.list[index];
            if index != target && stage.scan_stage {
                ignore_cache |= stage.ignore_cache;
                scan.push((stage.names.stage.clone(), stage.state.marshal(&options)?));
            }
        }
        let Stage { state, image, base_image, .. } = self.stages.list.swap_remove(target);
        let definition = state.marshal(&options)?;
        let mut image = Arc::unwrap_or_clone(image);
        let base_image = base_image.map(Arc::unwrap_or_clone);
        image.config.labels.extend(self.options.labels.clone());
        self.set_platform(&mut image);
        let (epoch, warnings) = (self.epoch, Vec::new());
        Ok(Converted { definition, image, base_image, epoch, warnings, ignore_cache, scan })
    }

    /// Now it is known which paths of the contexts are needed.
    fn fill_contexts(&mut self) {
        let used = &self.stages.used_paths;
        let none = Ignore::default();
        let ignore = self.ignore.as_deref().unwrap_or(&none);
        let context: State = self.source.main_context(self.options, ignore, used.of_context());
        self.context_slot.fill(&context);
        for pending in std::mem::take(&mut self.pending) {
            let paths = used.of_set(pending.paths);
            pending.fill(self.options, paths);
        }
    }

    /// The platform asked for goes over what the base image says.
    fn set_platform(&self, image: &mut ImageConfig) {
        let wanted = &self.platforms.target;
        if !self.platforms.implicit {
            let same = wanted.os == image.os && wanted.architecture == image.architecture;
            image.os.clone_from(&wanted.os);
            image.architecture.clone_from(&wanted.architecture);
            if !wanted.variant.is_empty() || !same {
                image.variant.clone_from(&wanted.variant);
            }
            if !wanted.os_version.is_empty() || !same {
                image.os_version.clone_from(&wanted.os_version);
            }
            if !wanted.os_features.is_empty() {
                image.os_features.clone_from(&wanted.os_features);
            }
        }
        let platform: Platform = image.platform().normalize();
        image.set_platform(&platform);
    }
}
