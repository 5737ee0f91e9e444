//! What an op must look like before anything is done with it.

use kiln_oci::Digest;
use kiln_proto::pb;

use crate::{EMPTY, Edge, Error, ROOT_MOUNT, SKIP_OUTPUT, Vertex};

/// Checks that every needed field is there and every index points into what it indexes.
pub(crate) fn op(vertex: &Digest, op: &pb::Op) -> Result<(), Error> {
    let inputs = op.inputs.len();
    let Some(inner) = &op.op else { return Err(Error::op(vertex, "empty", "no operation")) };
    let (kind, result) = match inner {
        pb::op::Op::Source(s) => ("source", source(s)),
        pb::op::Op::Exec(e) => ("exec", exec(e, inputs)),
        pb::op::Op::File(f) => ("file", file(f, inputs)),
        pb::op::Op::Build(b) => ("build", build(b, inputs)),
        pb::op::Op::Merge(m) => ("merge", merge(m, inputs)),
        pb::op::Op::Diff(d) => ("diff", diff(d, inputs)),
        pb::op::Op::Passthrough(p) => ("passthrough", passthrough(p, inputs)),
    };
    result.map_err(|reason| Error::op(vertex, kind, reason))
}

/// Checks that `edge` names an output that `vertex` has.
pub(crate) fn output(vertex: &Vertex, edge: &Edge) -> Result<(), Error> {
    let count = outputs(&vertex.op);
    if edge.output < count {
        return Ok(());
    }
    Err(Error::op(
        &vertex.digest,
        "input",
        format!("output {} was asked for, but there are {count}", edge.output),
    ))
}

/// How many outputs an op has.
fn outputs(op: &pb::Op) -> usize {
    let highest = |indexes: &mut dyn Iterator<Item = i64>| {
        indexes.filter_map(|i| usize::try_from(i).ok()).map(|i| i + 1).max().unwrap_or(0)
    };
    match &op.op {
        Some(pb::op::Op::Exec(e)) => highest(&mut e.mounts.iter().map(|m| m.output)),
        Some(pb::op::Op::File(f)) => highest(&mut f.actions.iter().map(|a| a.output)),
        Some(pb::op::Op::Passthrough(p)) => p.outputs.len(),
        Some(_) => 1,
        None => 0,
    }
}

/// `index` must be less than `count`; -1 is allowed where `optional`.
fn index(what: &str, index: i64, count: usize, optional: bool) -> Result<(), String> {
    let fits = usize::try_from(index).is_ok_and(|i| i < count);
    if fits || (optional && index == EMPTY) {
        return Ok(());
    }
    Err(format!("{what} {index} does not exist, there are {count}"))
}

fn known<T: TryFrom<i32>>(what: &str, value: i32) -> Result<(), String> {
    T::try_from(value).map(drop).map_err(|_| format!("invalid {what} {value}"))
}

fn source(op: &pb::SourceOp) -> Result<(), String> {
    match op.identifier.is_empty() {
        true => Err("no identifier".into()),
        false => Ok(()),
    }
}

fn exec(op: &pb::ExecOp, inputs: usize) -> Result<(), String> {
    let meta = op.meta.as_ref().ok_or("no meta")?;
    if meta.args.is_empty() {
        return Err("no args".into());
    }
    if op.mounts.is_empty() {
        return Err("no mounts".into());
    }
    if !op.mounts.iter().any(|m| m.dest == ROOT_MOUNT) {
        return Err("no rootfs".into());
    }
    known::<pb::NetMode>("network mode", op.network)?;
    known::<pb::SecurityMode>("security mode", op.security)?;
    for mount in &op.mounts {
        self::mount(mount, inputs, op.mounts.len())
            .map_err(|e| format!("mount {:?}: {e}", clip(&mount.dest)))?;
    }
    Ok(())
}

fn mount(mount: &pb::Mount, inputs: usize, mounts: usize) -> Result<(), String> {
    index("input", mount.input, inputs, true)?;
    if mount.output != SKIP_OUTPUT {
        index("output", mount.output, mounts, false)?;
    }
    known::<pb::MountType>("type", mount.mount_type)?;
    known::<pb::MountContentCache>("content cache mode", mount.content_cache)?;
    if mount.dest.is_empty() && mount.mount_type != pb::MountType::Ssh as i32 {
        return Err("no destination".into());
    }
    match mount.mount_type() {
        pb::MountType::Cache => {
            let cache = mount.cache_opt.as_ref().ok_or("no cache options")?;
            known::<pb::CacheSharingOpt>("sharing mode", cache.sharing)
        }
        pb::MountType::Secret if mount.secret_opt.is_none() => Err("no secret options".into()),
        pb::MountType::Ssh if mount.ssh_opt.is_none() => Err("no ssh options".into()),
        pb::MountType::Tmpfs if mount.tmpfs_opt.as_ref().is_some_and(|t| t.size < 0) => {
            Err("negative size".into())
        }
        _ => Ok(()),
    }
}

fn file(op: &pb::FileOp, inputs: usize) -> Result<(), String> {
    if op.actions.is_empty() {
        return Err("no actions".into());
    }
    let mut outputs = std::collections::HashSet::new();
    for (i, action) in op.actions.iter().enumerate() {
        let fail = |e: String| format!("action {i}: {e}");
        // An action takes inputs of the op, or what earlier actions made.
        let count = inputs + i;
        index("input", action.input, count, true).map_err(fail)?;
        index("secondary input", action.secondary_input, count, true).map_err(fail)?;
        if action.output != SKIP_OUTPUT {
            index("output", action.output, op.actions.len(), false).map_err(fail)?;
            if !outputs.insert(action.output) {
                return Err(format!("action {i}: output {} is made twice", action.output));
            }
        }
        file_action(action, count).map_err(fail)?;
    }
    if outputs.is_empty() {
        return Err("no outputs".into());
    }
    if !(0..outputs.len() as i64).all(|o| outputs.contains(&o)) {
        return Err("outputs have gaps".into());
    }
    Ok(())
}

fn file_action(action: &pb::FileAction, count: usize) -> Result<(), String> {
    use pb::file_action::Action;
    let owner = match action.action.as_ref().ok_or("no action")? {
        Action::Copy(a) => a.owner.as_ref(),
        Action::Mkfile(a) => a.owner.as_ref(),
        Action::Mkdir(a) => a.owner.as_ref(),
        Action::Symlink(a) => a.owner.as_ref(),
        Action::Rm(_) => None,
    };
    let users = owner.into_iter().flat_map(|o| [&o.user, &o.group]).flatten();
    for user in users {
        if let Some(pb::user_opt::User::ByName(named)) = &user.user {
            index("owner's input", named.input, count, true)?;
        }
    }
    Ok(())
}

fn build(op: &pb::BuildOp, inputs: usize) -> Result<(), String> {
    index("builder", op.builder, inputs, true)?;
    op.inputs.iter().try_for_each(|(name, i)| {
        index("input", i.input, inputs, false).map_err(|e| format!("{:?}: {e}", clip(name)))
    })
}

fn merge(op: &pb::MergeOp, inputs: usize) -> Result<(), String> {
    if op.inputs.is_empty() {
        return Err("no inputs".into());
    }
    op.inputs.iter().try_for_each(|i| index("input", i.input, inputs, true))
}

fn diff(op: &pb::DiffOp, inputs: usize) -> Result<(), String> {
    let lower = op.lower.as_ref().ok_or("no lower input")?;
    let upper = op.upper.as_ref().ok_or("no upper input")?;
    index("lower input", lower.input, inputs, true)?;
    index("upper input", upper.input, inputs, true)
}

fn passthrough(op: &pb::PassthroughOp, inputs: usize) -> Result<(), String> {
    if op.id.is_empty() {
        return Err("no id".into());
    }
    if op.outputs.is_empty() {
        return Err("no outputs".into());
    }
    op.outputs.iter().try_for_each(|&o| index("output's input", o, inputs, false))
}

fn clip(s: &str) -> String {
    s.chars().take(100).collect()
}
