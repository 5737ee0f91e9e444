//! What the embedded runtime needs on the host to run a container's hooks: a bundle that they can read.
//!
//! ```text
//!   <bundles>/<id>/config.json
//!   <bundles>/<id>/rootfs/      an empty folder, which the container's root is mounted on where only hooks see it
//! ```

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kiln_cdi::HookName;
use rustix::fs::{CWD, Mode, OFlags};

use super::device::Device;
use super::external::config;
use super::wire::{HookSetup, HooksSetup};
use super::{helper, mount, start};
use crate::{Error, Result, RunSpec};

/// A bundle and the host's files, for as long as a container is being made.
pub(super) struct Hooks {
    folder: PathBuf,
    setup: HooksSetup,
    host: OwnedFd,
}

impl Hooks {
    /// Prepares to run the hooks of `spec`; `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for hooks at moments that the embedded runtime does not have.
    pub(super) fn prepare(
        spec: &RunSpec,
        root: &OwnedFd,
        bundles: Option<&Path>,
        devices: &[Device],
    ) -> Result<Option<Self>> {
        let Some(first) = spec.hooks.first() else { return Ok(None) };
        let moments = [HookName::CreateContainer, HookName::StartContainer];
        let refused = spec.hooks.iter().find(|hook| !moments.contains(&hook.name));
        if let Some(hook) = refused.or(Some(first).filter(|_| bundles.is_none())) {
            let feature = format!("the {} hook {}", hook.name.name(), hook.path);
            let place = "by the embedded runtime (runc and crun have it: --oci-worker-binary)";
            return Err(Error::Unsupported { feature, place });
        }
        let folder = bundles.unwrap_or(Path::new("/")).join(&spec.id);
        let system = |step| move |source| Error::System { step, source };
        std::fs::create_dir_all(folder.join("rootfs")).map_err(system("make a bundle for hooks"))?;
        let bundle = std::fs::canonicalize(&folder).map_err(system("find the bundle for hooks"))?;
        let bundle = bundle.to_string_lossy().into_owned();
        let of = |moment| {
            let hooks = spec.hooks.iter().filter(move |hook| hook.name == moment).cloned();
            hooks.map(|kiln_cdi::Hook { path, args, env, timeout, .. }| HookSetup {
                path,
                args,
                env,
                timeout,
            })
        };
        let setup = HooksSetup {
            // Set when it is sent.
            host: 0,
            id: spec.id.clone(),
            create: of(HookName::CreateContainer).collect(),
            start: of(HookName::StartContainer).collect(),
            bundle,
        };
        let host = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let host = host.map_err(Into::into).and_then(|host| mount::private_clone_of(host, true));
        let host = host.map_err(system("copy the host's mounts for hooks"))?;
        let hooks = Self { folder, setup, host };
        hooks.write_config(spec, root, devices)?;
        Ok(Some(hooks))
    }

    fn write_config(&self, spec: &RunSpec, root: &OwnedFd, devices: &[Device]) -> Result<()> {
        let (user, home) = helper::resolve_user(root, &spec.process.user, true).map_err(start::error)?;
        let config = config::config(
            spec,
            config::Place {
                root: format!("{}/rootfs", self.setup.bundle),
                cgroups_path: String::new(),
                mounts: Vec::new(),
                user: &user,
                home: home.as_deref(),
                oom_score_adj: None,
                loops: None,
                own_capabilities: u64::MAX,
                devices,
            },
        );
        let json = serde_json::to_vec(&config).map_err(std::io::Error::other);
        json.and_then(|json| std::fs::write(self.folder.join("config.json"), json))
            .map_err(|source| Error::System { step: "write the bundle for hooks", source })
    }

    /// What the container is told, with a handle on the host's files that is to go along.
    pub(super) fn setup(&self, add: impl FnOnce(OwnedFd) -> usize) -> Result<HooksSetup> {
        let host =
            self.host.try_clone().map_err(|source| Error::System { step: "copy a descriptor", source })?;
        Ok(HooksSetup { host: add(host), ..self.setup.clone() })
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "a bundle stays behind");
        }
    }
}
