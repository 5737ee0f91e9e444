//! Cache mounts that travel with a cache, from one builder to another.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Build, Daemon, Image, Left, Registry, alone, assert_sound, buildctl, folder_for};

/// Builders that know one registry, each with a folder of its own.
struct Fleet {
    registry: Registry,
    shared: tempfile::TempDir,
}

struct Builder<'a> {
    fleet: &'a Fleet,
    folder: tempfile::TempDir,
    daemon: Daemon,
}

impl Fleet {
    fn new() -> Self {
        Self { registry: Registry::start(&Image::new()), shared: tempfile::tempdir().unwrap() }
    }

    fn builder(&self) -> Builder<'_> {
        let folder = folder_for(&self.registry);
        std::fs::create_dir(folder.path().join("context")).unwrap();
        let daemon = Daemon::start(folder.path());
        Builder { fleet: self, folder, daemon }
    }

    /// A cache on disk.
    fn cache(&self, name: &str) -> PathBuf {
        self.shared.path().join(name)
    }
}

impl Builder<'_> {
    /// A build of one step on the base image with two cache mounts: one that begins empty, and one with an owner.
    fn step(&self, command: &str) -> Build {
        let base = format!("{}/base:latest", self.fleet.registry.address);
        let mounts =
            "--mount=type=cache,id=deps,target=/c --mount=type=cache,id=own,uid=7,mode=0700,target=/o";
        let text = format!("FROM {base}\nRUN {mounts} {command}\n");
        std::fs::write(self.folder.path().join("Dockerfile"), text).unwrap();
        Build::new(self.folder.path())
    }

    fn run(&self, build: &Build) {
        build.run(&self.daemon.address());
    }

    /// How many cache mounts it has.
    fn mounts(&self) -> usize {
        let filter = "--filter=type==exec.cachemount";
        let text = buildctl(&self.daemon.address(), &["du", "--format={{json .}}", filter]);
        serde_json::from_str::<Value>(&text).unwrap().as_array().map_or(0, Vec::len)
    }

    fn end(self) {
        self.daemon.stop();
        Left::no_processes();
        assert_sound(&self.folder.path().join("root"));
    }
}

fn export(build: Build, cache: &Path, mounts: &str) -> Build {
    build.arg(format!("--export-cache=type=local,dest={},\"cache-mounts={mounts}\"", cache.display()))
}

fn import(build: Build, cache: &Path, mounts: &str) -> Build {
    build.arg(format!("--import-cache=type=local,src={},\"cache-mounts={mounts}\"", cache.display()))
}

fn blob(cache: &Path, digest: &Value) -> PathBuf {
    cache.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"))
}

/// The cache mounts in a cache's manifest: their ids and digests.
fn mounts_of(cache: &Path) -> Vec<(String, Value)> {
    let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let index = read(&cache.join("index.json"));
    let manifest = read(&blob(cache, &index["manifests"][0]["digest"]));
    let layers = manifest["layers"].as_array().unwrap().iter();
    let mounts = layers.filter(|layer| layer["mediaType"].as_str().unwrap().contains("kiln.cachemount"));
    let told = |layer: &Value| {
        let id = layer["annotations"]["dev.kiln.cachemount.id"].as_str().unwrap();
        (id.to_owned(), layer["digest"].clone())
    };
    mounts.map(told).collect()
}

const WRITE: &str = "echo one > /c/word && echo own > /o/word";

#[test]
fn cache_mounts_come_along_with_a_cache() {
    let Some(_alone) = alone() else { return };
    let fleet = Fleet::new();
    let (cache, next) = (fleet.cache("cache"), fleet.cache("next"));

    let first = fleet.builder();
    first.run(&export(first.step(WRITE), &cache, "deps,own"));
    let sent = mounts_of(&cache);
    assert_eq!(sent.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["/deps", "/own"]);
    // What has not changed is the same again, also from another folder's files.
    first.run(&export(first.step(WRITE), &next, "all"));
    assert_eq!(mounts_of(&next), sent);
    first.end();

    // A builder that runs nothing fetches nothing, and yet passes on what it was given.
    let idle = fleet.builder();
    let (passed, named) = (fleet.cache("passed"), fleet.cache("named"));
    idle.run(&export(import(idle.step(WRITE), &cache, "all"), &passed, "all"));
    assert_eq!((idle.mounts(), mounts_of(&passed)), (0, sent.clone()));
    idle.run(&export(import(idle.step(WRITE), &cache, "deps"), &named, "all"));
    assert_eq!(mounts_of(&named), sent[..1]);
    idle.end();

    // One that runs a step has the files, with their owners, and only those that it asks for.
    let second = fleet.builder();
    let check = "[ $(cat /c/word) = one ] && [ $(cat /o/word) = own ] && [ \"$(stat -c %u:%a /o)\" = 7:700 ]";
    second.run(&import(second.step(check), &passed, "deps;own"));
    assert_eq!(second.mounts(), 2);
    // What is there is never replaced.
    second.run(&second.step("echo two > /c/word"));
    second.run(&import(second.step("[ $(cat /c/word) = two ]"), &passed, "all"));
    // A step that ignores the cache begins with new mounts, imported or not.
    let none = import(second.step("[ ! -e /c/word ] && [ ! -e /o/word ]"), &passed, "all");
    second.run(&none.arg("--no-cache"));
    second.end();

    let third = fleet.builder();
    third.run(&import(third.step("[ $(cat /c/word) = one ] && [ ! -e /o/word ]"), &cache, "deps"));
    third.end();
    let fourth = fleet.builder();
    let plain =
        fourth.step("[ ! -e /c/word ]").arg(format!("--import-cache=type=local,src={}", cache.display()));
    fourth.run(&plain);
    fourth.end();
}

#[test]
fn cache_mounts_that_are_damaged_are_cold() {
    let Some(_alone) = alone() else { return };
    let fleet = Fleet::new();
    let cache = fleet.cache("cache");
    let first = fleet.builder();
    first.run(&export(first.step(WRITE), &cache, "all"));
    first.end();
    let whole = fleet.cache("whole");
    let copied = std::process::Command::new("cp").arg("-a").args([&cache, &whole]).status().unwrap();
    assert!(copied.success());
    let sent = mounts_of(&cache);
    std::fs::remove_file(blob(&cache, &sent[0].1)).unwrap();
    let other = blob(&cache, &sent[1].1);
    let mut bytes = std::fs::read(&other).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&other, bytes).unwrap();

    let second = fleet.builder();
    second.run(&import(second.step("[ ! -e /c/word ] && [ ! -e /o/word ]"), &cache, "all"));
    assert_eq!(second.mounts(), 2);
    second.daemon.says("could not be restored");
    second.end();
    // Another cache that has them makes up for it, whether they are used or passed on.
    let both = fleet.builder();
    let check = "[ $(cat /c/word) = one ] && [ $(cat /o/word) = own ]";
    both.run(&import(import(both.step(check), &cache, "all"), &whole, "all"));
    both.end();
    let passing = fleet.builder();
    let passed = fleet.cache("passed");
    let caches = import(import(passing.step(WRITE), &cache, "all"), &whole, "all");
    passing.run(&export(caches, &passed, "all"));
    assert_eq!(mounts_of(&passed), sent);
    passing.end();
    // They are not passed on either, and that is no failure.
    let third = fleet.builder();
    let next = fleet.cache("next");
    third.run(&export(import(third.step(WRITE), &cache, "all"), &next, "all"));
    assert_eq!(mounts_of(&next), []);
    third.end();
}

#[test]
fn an_inline_cache_has_no_room_for_cache_mounts() {
    let Some(_alone) = alone() else { return };
    let fleet = Fleet::new();
    let builder = fleet.builder();
    let build = builder.step(WRITE).arg("--export-cache=type=inline,cache-mounts=all");
    let error = build.fail(&builder.daemon.address());
    assert!(error.contains("inline cache exporter: cache-mounts"), "{error}");
    builder.end();
}
