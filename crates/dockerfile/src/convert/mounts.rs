//! RUN --mount.

use kiln_llb::build::{Constraints, File, Mount, Owner, Run, Secret, Ssh, State, User};
use kiln_llb::caps;
use kiln_proto::pb;

use super::Converter;
use super::failure::refuse;
use super::paths;
use super::resolver::Resolver;
use super::stage::Step;
use crate::ast::{self, MountType, Sharing};
use crate::error::Error;

impl<R: Resolver> Converter<'_, R> {
    /// Adds the mounts of a RUN.
    pub(super) fn add_mounts(
        &mut self,
        index: usize,
        step: &Step,
        run: &ast::Run,
        mut spec: Run,
    ) -> Result<Run, Error> {
        let span = step.instruction.span;
        for (flag, &source) in run.mounts.iter().zip(&step.sources) {
            let mount = &flag.mount;
            let outline = self.stages.list[index].outline.as_deref_mut();
            spec = match mount.kind {
                MountType::Secret => {
                    let secret = secret(mount).map_err(|e| e.at(flag.raw.span))?;
                    if let Some(outline) = outline {
                        outline.secrets.entry(secret.id.clone()).or_insert((mount.required, span));
                    }
                    spec.secret(secret)
                }
                MountType::Ssh => {
                    let id = if mount.id.is_empty() { "default" } else { &mount.id };
                    if let Some(outline) = outline {
                        outline.ssh.entry(id.to_owned()).or_insert((mount.required, span));
                    }
                    spec.ssh(ssh(mount).map_err(|e| e.at(flag.raw.span))?)
                }
                _ => spec.mount(self.mount(index, mount, source).map_err(|e| e.at(flag.raw.span))?),
            };
        }
        Ok(spec)
    }

    /// A bind, cache or tmpfs mount.
    fn mount(&mut self, index: usize, mount: &ast::Mount, source: usize) -> Result<Mount, Error> {
        let from_context = mount.from.is_empty() && mount.kind != MountType::Cache;
        let mut state = self.context.clone();
        if !from_context {
            let stage = &self.stages.list[source];
            if !stage.dispatched {
                return Err(refuse(format!(
                    "cannot mount from stage {:?} to {:?}, stage needs to be defined before current command",
                    mount.from, mount.target
                )));
            }
            state = stage.state.clone();
        }
        if mount.kind == MountType::Tmpfs {
            state = State::scratch();
        }
        let mut selector = paths::join("/", &mount.source);
        if selector == "/" {
            selector.clear();
            if mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some() {
                state = with_owner(mount, &state);
                selector = "/cache".to_owned();
            }
        }
        let target = self.mount_target(index, &mount.target)?;
        if from_context {
            self.stages.used_paths.add_of_context(&mount.source);
        } else {
            self.stages.use_path(source, &mount.source);
        }
        Ok(self.mount_kind(mount, target, &state).selector(selector))
    }

    fn mount_kind(&self, mount: &ast::Mount, target: String, state: &State) -> Mount {
        let made = match mount.kind {
            MountType::Cache => {
                let id = if mount.id.is_empty() {
                    kiln_pattern::clean(&mount.target)
                } else {
                    mount.id[..].to_owned()
                };
                let sharing = match mount.sharing.unwrap_or_default() {
                    Sharing::Shared => pb::CacheSharingOpt::Shared,
                    Sharing::Private => pb::CacheSharingOpt::Private,
                    Sharing::Locked => pb::CacheSharingOpt::Locked,
                };
                let id = format!("{}/{id}", self.options.cache_namespace);
                Mount::cache(target, id).sharing(sharing).from(state)
            }
            MountType::Tmpfs => Mount::tmpfs(target, mount.size).from(state),
            _ => Mount::bind(target, state),
        };
        if mount.read_only {
            made.read_only()
        } else if mount.kind == MountType::Bind
            && self.options.caps.supports(caps::EXEC_MOUNT_BIND_READWRITE_NO_OUTPUT)
        {
            made.no_output()
        } else {
            made
        }
    }

    /// Relative targets continue the working directory; absolute ones stay as they were written.
    fn mount_target(&self, index: usize, target: &str) -> Result<String, Error> {
        let target = if target.starts_with('/') {
            target.to_owned()
        } else {
            paths::join(&paths::join("/", self.stages.list[index].state.get_dir()), target)
        };
        if target == "/" {
            return Err(refuse(format!("invalid mount target {target:?}")));
        }
        Ok(target)
    }
}

/// A folder with the wanted owner and mode, for mounts that begin empty.
fn with_owner(mount: &ast::Mount, state: &State) -> State {
    let id = |id: Option<u32>| Some(User::Id(id.unwrap_or(0)));
    let owner = Owner { user: id(mount.uid), group: id(mount.gid) };
    let file = File::new().mkdir("/cache", mount.mode.unwrap_or(0o755), false, Some(owner), None);
    state.file(file, Constraints::new().custom_name("[internal] setting cache mount permissions"))
}

fn secret(mount: &ast::Mount) -> Result<Secret, Error> {
    let base = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let id = match (&*mount.source, &*mount.id, &*mount.target) {
        ("", "", "") => return Err(refuse("one of source, target required")),
        ("", "", target) => base(target),
        ("", id, _) => id.to_owned(),
        (source, ..) => source.to_owned(),
    };
    let target = match (&*mount.target, &mount.env) {
        ("", Some(_)) => None,
        ("", None) => Some(format!("/run/secrets/{}", base(&id))),
        (target, _) => Some(target.to_owned()),
    };
    Ok(Secret {
        id,
        target,
        env: mount.env.as_deref().map(str::to_owned),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        mode: mount.mode.unwrap_or(0o400),
        optional: !mount.required,
    })
}

fn ssh(mount: &ast::Mount) -> Result<Ssh, Error> {
    if !mount.source.is_empty() {
        return Err(refuse("ssh does not support source"));
    }
    Ok(Ssh {
        id: mount.id[..].to_owned(),
        target: mount.target[..].to_owned(),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        mode: mount.mode.unwrap_or(0o600),
        optional: !mount.required,
    })
}
