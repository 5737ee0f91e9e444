//! What most tests begin with.

use std::path::Path;

use super::{Build, Daemon, Image, Left, Registry, assert_sound, folder_for};

/// A folder, a registry and a daemon.
pub(crate) struct Bench {
    pub(crate) registry: Registry,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) daemon: Daemon,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(&Image::new())
    }

    /// With a registry of this image.
    pub(crate) fn with(image: &Image) -> Self {
        let registry = Registry::start(image);
        let folder = folder_for(&registry);
        std::fs::create_dir(folder.path().join("context")).unwrap();
        let daemon = Daemon::start(folder.path());
        Self { registry, folder, daemon }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A build by this Dockerfile, in which `BASE` is the registry's image.
    pub(crate) fn build(&self, dockerfile: &str) -> Build {
        let base = format!("{}/base:latest", self.registry.address);
        std::fs::write(self.path().join("Dockerfile"), dockerfile.replace("BASE", &base)).unwrap();
        Build::new(self.path())
    }

    pub(crate) fn fails(&self, dockerfile: &str) -> String {
        let error = self.build(dockerfile).fail(&self.daemon.address());
        println!("{error}\n");
        error
    }

    /// The daemon still runs, builds, and leaves a sound store.
    pub(crate) fn end(mut self) {
        assert!(self.daemon.is_up());
        self.build("FROM BASE\nRUN cat /etc/passwd > /well\n").run(&self.daemon.address());
        let root = self.path().join("root");
        self.daemon.stop();
        Left::no_processes();
        assert_sound(&root);
    }
}
