//! Building definitions.
//!
//! A [`State`] is a file system that will be, and the surroundings (variables, folder, user, platform) that steps on it
//! run in. States are values: every method returns a new one, and cloning is cheap.
//!
//! ```
//! use kiln_llb::build::{self, Constraints, CopyOptions, File, Marshal, Mount, Run};
//!
//! # fn main() -> Result<(), kiln_llb::Error> {
//! let source = build::local("context", build::LocalOptions::default(), Constraints::new());
//! let built = build::image("golang:1.25", build::ImageOptions::default(), Constraints::new())?
//!     .env("CGO_ENABLED", "0")
//!     .dir("/src")
//!     .run(
//!         Run::new(["go", "build", "-o", "/out/app", "."])
//!             .mount(Mount::bind("/src", &source).read_only())
//!             .mount(Mount::cache("/root/.cache", "go-cache"))
//!             .constraints(Constraints::new().custom_name("compile")),
//!     )?;
//! let image = build::State::scratch()
//!     .file(File::new().copy(built.root(), "/out/app", "/app", CopyOptions::default()), Constraints::new());
//! let definition = image.marshal(&Marshal::new("some-unique-id"))?;
//! assert_eq!(definition.def.len(), 5);
//! # Ok(())
//! # }
//! ```

mod constraints;
mod deferred;
mod definition;
mod encode;
mod env;
mod exec;
mod file;
mod mounts;
mod node;
mod sources;

use std::sync::{Arc, LazyLock};

use bytestring::ByteString;
use kiln_oci::{ImageConfig, Platform};
use kiln_proto::pb;

pub use constraints::{CUSTOM_NAME, Constraints, Location, SourceMap};
pub use deferred::Deferred;
pub use definition::Marshal;
pub use env::Env;
pub use exec::{Args, Exec, Run};
pub use file::{CopyOptions, File, Owner, User, normalize_path};
pub use mounts::{Mount, Secret, Ssh};
pub use sources::{
    GitOptions, HttpOptions, ImageOptions, LocalOptions, OciLayoutOptions, git, http, image, image_of, local,
    oci_layout,
};

use node::{Kind, Node, Output};

/// A file system to be made, with the surroundings of steps on it.
#[derive(Clone, Debug)]
pub struct State {
    output: Option<Output>,
    meta: Arc<Meta>,
}

/// The surroundings of steps.
#[derive(Clone, Debug)]
struct Meta {
    env: Arc<Env>,
    dir: Arc<str>,
    user: Arc<str>,
    hostname: Arc<str>,
    platform: Option<Arc<Platform>>,
    network: pb::NetMode,
    security: pb::SecurityMode,
    extra_hosts: Vec<pb::HostIp>,
    ulimits: Vec<pb::Ulimit>,
    cgroup_parent: Arc<str>,
}

impl Default for Meta {
    /// The surroundings of scratch.
    fn default() -> Self {
        Self {
            env: Arc::default(),
            dir: "/".into(),
            user: Arc::default(),
            hostname: Arc::default(),
            platform: None,
            network: pb::NetMode::Unset,
            security: pb::SecurityMode::Sandbox,
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            cgroup_parent: Arc::default(),
        }
    }
}

impl State {
    /// The empty file system.
    pub fn scratch() -> Self {
        Self::start(None)
    }

    fn start(output: Option<Output>) -> Self {
        /// The surroundings of scratch: states begin with them all the time.
        static NOTHING: LazyLock<Arc<Meta>> = LazyLock::new(Arc::default);
        let platform = output.as_ref().and_then(Output::platform).map(Arc::clone);
        let state = Self { output, meta: Arc::clone(&NOTHING) };
        match platform {
            Some(platform) => state.platform(platform),
            None => state,
        }
    }

    /// The same surroundings on another file system.
    #[must_use]
    pub fn on(&self, other: &Self) -> Self {
        Self { output: other.output.clone(), meta: Arc::clone(&self.meta) }
    }

    fn with_output(&self, output: Output) -> Self {
        let platform = output.platform().filter(|own| self.get_platform() != Some(own)).map(Arc::clone);
        let state = Self { output: Some(output), meta: Arc::clone(&self.meta) };
        match platform {
            Some(platform) => state.platform(platform),
            None => state,
        }
    }

    /// Is this the empty file system?
    pub fn is_scratch(&self) -> bool {
        self.output.is_none()
    }

    /// Only this file system: the surroundings are those of scratch.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self::start(self.output.clone())
    }

    fn edit(mut self, change: impl FnOnce(&mut Meta)) -> Self {
        change(Arc::make_mut(&mut self.meta));
        self
    }

    /// Sets a variable; one that is set already moves to the end.
    #[must_use]
    pub fn env(self, name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.edit(|m| Arc::make_mut(&mut m.env).set(name, value))
    }

    /// Remembers which variables were set until now, for [`State::order_env`].
    #[must_use]
    pub fn settle_env(self) -> Self {
        self.edit(|m| Arc::make_mut(&mut m.env).settle())
    }

    /// Puts variables that were not set since [`State::settle_env`] in order: those named go behind the others.
    #[must_use]
    pub fn order_env<'n>(self, last: impl DoubleEndedIterator<Item = &'n str>) -> Self {
        self.edit(|m| Arc::make_mut(&mut m.env).order(last))
    }

    /// Sets the working directory; a relative one continues the present one.
    #[must_use]
    pub fn dir(self, dir: impl AsRef<str>) -> Self {
        let dir = dir.as_ref();
        self.edit(|m| {
            m.dir = if dir.starts_with('/') { dir.into() } else { kiln_pattern::join(&m.dir, dir).into() };
        })
    }

    /// Sets the user, `name[:group]` or numbers.
    #[must_use]
    pub fn user(self, user: impl Into<Arc<str>>) -> Self {
        let user = user.into();
        self.edit(|m| m.user = user)
    }

    /// Sets the host name.
    #[must_use]
    pub fn hostname(self, name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        self.edit(|m| m.hostname = name)
    }

    /// Sets the platform, normalised.
    #[must_use]
    pub fn platform(self, platform: impl Into<Arc<Platform>>) -> Self {
        let mut platform = platform.into();
        if !platform.is_normal() {
            platform = Arc::new(Arc::unwrap_or_clone(platform).normalize());
        }
        if self.get_platform() == Some(&platform) { self } else { self.edit(|m| m.platform = Some(platform)) }
    }

    /// Sets the network mode.
    #[must_use]
    pub fn network(self, mode: pb::NetMode) -> Self {
        if self.meta.network == mode { self } else { self.edit(|m| m.network = mode) }
    }

    /// Sets the security mode.
    #[must_use]
    pub fn security(self, mode: pb::SecurityMode) -> Self {
        if self.meta.security == mode { self } else { self.edit(|m| m.security = mode) }
    }

    /// Adds a line to `/etc/hosts`.
    #[must_use]
    pub fn extra_host(self, host: impl Into<String>, ip: impl Into<String>) -> Self {
        let entry = pb::HostIp { host: host.into(), ip: ip.into() };
        self.edit(|m| m.extra_hosts.push(entry))
    }

    /// Adds a resource limit, such as `nofile`.
    #[must_use]
    pub fn ulimit(self, name: impl Into<String>, soft: i64, hard: i64) -> Self {
        let limit = pb::Ulimit { name: name.into(), soft, hard };
        self.edit(|m| m.ulimits.push(limit))
    }

    /// Sets the cgroup under which steps run.
    #[must_use]
    pub fn cgroup_parent(self, parent: impl Into<Arc<str>>) -> Self {
        let parent = parent.into();
        self.edit(|m| m.cgroup_parent = parent)
    }

    /// Takes variables, working directory and platform from an image.
    #[must_use]
    pub fn image_config(mut self, image: &ImageConfig) -> Self {
        for entry in &image.config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            if !name.is_empty() {
                self = self.env(name, value);
            }
        }
        self = self.dir(&image.config.working_dir);
        if image.architecture.is_empty() || image.os.is_empty() {
            self
        } else {
            self.platform(image.platform())
        }
    }

    /// The value of a variable.
    pub fn get_env(&self, name: &str) -> Option<&str> {
        self.meta.env.get(name)
    }

    /// All variables.
    pub fn envs(&self) -> &Env {
        &self.meta.env
    }

    /// The working directory.
    pub fn get_dir(&self) -> &str {
        &self.meta.dir
    }

    /// The user; empty when none was set.
    pub fn get_user(&self) -> &str {
        &self.meta.user
    }

    /// The platform, if one was set.
    pub fn get_platform(&self) -> Option<&Platform> {
        self.meta.platform.as_deref()
    }

    /// Lays several file systems over each other, the last on top. Scratch adds nothing.
    pub fn merge<'a>(inputs: impl IntoIterator<Item = &'a Self>, constraints: Constraints) -> Self {
        let inputs: Vec<&Self> = inputs.into_iter().filter(|s| !s.is_scratch()).collect();
        let (first, rest) = match inputs.split_first() {
            None => return Self::scratch(),
            Some((only, [])) => return (*only).clone(),
            Some((first, _)) => (*first, &inputs),
        };
        let outputs = rest.iter().filter_map(|s| s.output.clone()).collect();
        first.with_output(Node::output(Kind::Merge, outputs, constraints))
    }

    /// What changed from `lower` to `upper`, as a file system of its own.
    pub fn diff(lower: &Self, upper: &Self, constraints: Constraints) -> Self {
        if lower.is_scratch() {
            return upper.clone();
        }
        let kind = Kind::Diff { lower: lower.output.is_some(), upper: upper.output.is_some() };
        let outputs = lower.output.iter().chain(&upper.output).cloned().collect();
        lower.with_output(Node::output(kind, outputs, constraints))
    }

    /// The same file system, but only once `dependencies` could be made too.
    #[must_use]
    pub fn requires<'a>(
        &self,
        id: impl Into<String>,
        dependencies: impl IntoIterator<Item = &'a Self>,
    ) -> Self {
        let Some(own) = self.output.clone() else { return self.clone() };
        let dependencies: Vec<Output> = dependencies.into_iter().filter_map(|s| s.output.clone()).collect();
        if dependencies.is_empty() {
            return self.clone();
        }
        let outputs = std::iter::once(own).chain(dependencies).collect();
        self.with_output(Node::output(Kind::Passthrough { id: id.into() }, outputs, Constraints::new()))
    }
}

#[cfg(test)]
mod tests;
