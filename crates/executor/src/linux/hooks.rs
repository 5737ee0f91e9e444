//! What the embedded runtime needs on the host to run a container's hooks: a bundle that they can read.
//!
//! ```text
//!   <bundles>/<id>/config.json    for root only: it has the step's environment
//!   <bundles>/<id>/rootfs/      an empty folder, which the container's root is mounted on where only hooks see it
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
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
    bundle: Bundle,
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
        if spec.hooks.is_empty() {
            return Ok(None);
        }
        let moments = [HookName::CreateContainer, HookName::StartContainer];
        let can = |hook: &kiln_cdi::Hook| bundles.is_some() && moments.contains(&hook.name);
        let refused = spec.hooks.iter().find(|hook| !can(hook));
        let (Some(bundles), None) = (bundles, refused) else {
            let hook = refused.map(|hook| format!("{} hook {}", hook.name.name(), hook.path));
            let feature = format!("the {}", hook.unwrap_or_default());
            let place = "by the embedded runtime (runc and crun have it: --oci-worker-binary)";
            return Err(Error::Unsupported { feature, place });
        };
        let system = |step| move |source| Error::System { step, source };
        let bundle = Bundle::make(bundles, &spec.id).map_err(system("make a bundle for hooks"))?;
        let path = std::fs::canonicalize(&bundle.0).map_err(system("find the bundle for hooks"))?;
        let path = path.into_os_string().into_string().map_err(|path| Error::Invalid {
            field: "bundles of hooks",
            problem: format!("{} is not UTF-8", path.display()),
        })?;
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
            bundle: path,
        };
        let host = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let host = host.map_err(Into::into).and_then(|host| mount::private_clone_of(host, true));
        let host = host.map_err(system("copy the host's mounts for hooks"))?;
        let hooks = Self { bundle, setup, host };
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
        let json = serde_json::to_vec(&config).map_err(io::Error::other);
        json.and_then(|json| std::fs::write(self.bundle.0.join("config.json"), json))
            .map_err(|source| Error::System { step: "write the bundle for hooks", source })
    }

    /// What the container is told, with a handle on the host's files that is to go along.
    pub(super) fn setup(&self, add: impl FnOnce(OwnedFd) -> usize) -> Result<HooksSetup> {
        let host =
            self.host.try_clone().map_err(|source| Error::System { step: "copy a descriptor", source })?;
        Ok(HooksSetup { host: add(host), ..self.setup.clone() })
    }
}

/// The folder of a bundle; it goes with this.
struct Bundle(PathBuf);

impl Bundle {
    fn make(bundles: &Path, id: &str) -> io::Result<Self> {
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700).recursive(true).create(bundles)?;
        private.recursive(false).create(bundles.join(id))?;
        let bundle = Self(bundles.join(id));
        private.create(bundle.0.join("rootfs"))?;
        Ok(bundle)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a bundle stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_for_nobody_else_and_goes() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let bundles = folder.path().join("a/bundles");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let bundle = Bundle::make(&bundles, "x").unwrap();
        assert_eq!((mode(&bundles), mode(&bundles.join("x"))), (0o700, 0o700));
        assert!(bundles.join("x/rootfs").is_dir());
        // Whose it is, it stays.
        assert!(Bundle::make(&bundles, "x").is_err());
        assert!(bundles.join("x/rootfs").is_dir());
        drop(bundle);
        assert!(!bundles.join("x").exists());
    }
}
