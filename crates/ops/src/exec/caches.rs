//! The cache mounts of an exec op.
//!
//! Two mounts of one op that mean the same cache mount are that one, also when others have to wait for it: an op never
//! waits for itself. All are taken before the op does anything else, in the order of their keys, so that two ops which
//! each want what the other has cannot wait for each other.

use std::collections::BTreeMap;

use kiln_proto::pb;
use kiln_worker::{CacheMount, MountFiller, MountWish, Sharing, Unpacked};

use super::mounts::Given;
use crate::{Host, OpError};

/// The cache mounts that an op holds, by key.
#[derive(Debug, Default)]
pub(super) struct Caches(BTreeMap<String, CacheMount>);

/// A cache mount that an op wants.
struct Wanted {
    name: String,
    below: Option<Unpacked>,
    sharing: Sharing,
    description: String,
}

impl Caches {
    /// Takes all that the mounts name; waits where another op has one for itself.
    pub(super) async fn take(
        host: &Host,
        given: &Given<'_>,
        inputs: &[Option<Unpacked>],
    ) -> Result<Self, OpError> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for mount in given.mounts.iter().filter(|mount| mount.mount_type() == pb::MountType::Cache) {
            let below = super::mounts::input_of(mount, inputs)?;
            let key = key(mount, below.as_ref())?;
            // The first decides how the op shares it with others.
            let name = id(mount)?.to_owned();
            wanted.entry(key).or_insert_with(|| Wanted {
                name,
                below,
                sharing: sharing(mount),
                description: description(mount, given.user),
            });
        }
        let mut held = BTreeMap::new();
        for (key, Wanted { name, below, sharing, description }) in wanted {
            let filler = match given.filling {
                Some(filling) => filling.of(host, &name, below.as_ref()).await?,
                None => None,
            };
            let wish = MountWish { name: &name, base: below.as_ref(), sharing, description: &description };
            let filler = filler.as_ref().map(|filler| filler as &dyn MountFiller);
            let cache = host.worker.cache_mount(wish, filler).await?;
            held.insert(key, cache);
        }
        Ok(Self(held))
    }

    /// The one that `mount` means.
    pub(super) fn get(&self, mount: &pb::Mount, below: Option<&Unpacked>) -> Result<CacheMount, OpError> {
        let key = key(mount, below)?;
        let held = self.0.get(&key).cloned();
        held.ok_or_else(|| OpError::Invalid(format!("cache mount {} was not prepared", mount.dest)))
    }
}

fn id(mount: &pb::Mount) -> Result<&str, OpError> {
    let options = mount.cache_opt.as_ref();
    let options =
        options.ok_or_else(|| OpError::Invalid(format!("cache mount {} has no options", mount.dest)))?;
    Ok(if options.id.is_empty() { &mount.dest } else { &options.id })
}

/// What it is known by here. One that begins with other files is another one.
fn key(mount: &pb::Mount, below: Option<&Unpacked>) -> Result<String, OpError> {
    let id = id(mount)?;
    Ok(match below {
        Some(tree) => format!("{id}:{}", tree.as_ref().id()),
        None => id.to_owned(),
    })
}

fn sharing(mount: &pb::Mount) -> Sharing {
    match mount.cache_opt.as_ref().map(pb::CacheOpt::sharing).unwrap_or_default() {
        pb::CacheSharingOpt::Shared => Sharing::Shared,
        pb::CacheSharingOpt::Private => Sharing::Private,
        pb::CacheSharingOpt::Locked => Sharing::Locked,
    }
}

/// What users see in the list of what is stored.
fn description(mount: &pb::Mount, user: &str) -> String {
    let description = format!("cached mount {} from {user}", mount.dest);
    match mount.cache_opt.as_ref().map(|options| &options.id) {
        Some(id) if !id.is_empty() && *id != mount.dest => format!("{description} with id {id:?}"),
        _ => description,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(dest: &str, id: &str) -> pb::Mount {
        let options = pb::CacheOpt { id: id.into(), ..pb::CacheOpt::default() };
        pb::Mount { dest: dest.into(), cache_opt: Some(options), ..pb::Mount::default() }
    }

    #[test]
    fn a_mount_without_an_id_is_known_by_its_place() {
        assert_eq!(key(&mount("/a", ""), None).unwrap(), "/a");
        assert_eq!(key(&mount("/a", "b"), None).unwrap(), "b");
        assert!(key(&pb::Mount { dest: "/a".into(), ..pb::Mount::default() }, None).is_err());
    }

    #[test]
    fn descriptions_name_ids_that_are_not_the_place() {
        assert_eq!(description(&mount("/a", "/a"), "exec x"), "cached mount /a from exec x");
        assert_eq!(description(&mount("/a", "b"), "exec x"), "cached mount /a from exec x with id \"b\"");
    }
}
