//! Results as files: into a folder of the client, or as a tar archive of them. Each platform has a folder of its own
//! when there are several; statements lie beside the files, which are their subjects.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use kiln_fstree::{
    Filter, Mapped, Root,
    diffcopy::{self, ExtraFile},
    meta::{Kind, go_mode},
    walk::Walk,
};
use kiln_layer::{Times, diff::Archive};
use kiln_oci::{Digest, gojson};
use kiln_proto::fsutil::Stat;
use sha2::{Digest as _, Sha256};

use crate::{
    Context,
    attestation::{Attestation, Subject, statements, unbundle},
    error::{Error, Result, blocking},
    options::{FileOptions, parse_epoch},
    pipe,
    source::{EPOCH, ResultPlatform, Source},
};

const NANOSECONDS: i64 = 1_000_000_000;

/// The files of one platform.
struct Output {
    /// Name of the platform's folder; empty if it has none.
    folder: String,
    /// `None` for the empty tree.
    root: Option<Root>,
    epoch: Option<i64>,
    extra: Vec<(String, Bytes)>,
}

/// Sends the files as a tar archive.
pub(crate) async fn send_archive(cx: &Context, source: &Source, options: &FileOptions) -> Result<()> {
    // A folder for each platform, or none for one: whatever the option says, names must not collide in an archive.
    let outputs = outputs(source, options, source.is_multi()).await?;
    let now = now();
    pipe::send_file(cx, &BTreeMap::new(), move |pipe| {
        let mut archive = Archive::new(pipe);
        for output in outputs {
            let time = output.epoch.unwrap_or(0);
            if !output.folder.is_empty() {
                archive.folder(&output.folder, time)?;
            }
            if let Some(root) = &output.root {
                archive.tree(&output.folder, root, output.epoch.map_or(Times::Keep, Times::Set))?;
            }
            for (name, content) in &output.extra {
                let path =
                    if output.folder.is_empty() { name.clone() } else { format!("{}/{name}", output.folder) };
                archive.file(&path, 0o600, output.epoch.unwrap_or(now), content)?;
            }
        }
        archive.finish()?;
        Ok(())
    })
    .await
}

/// Sends the files into the client's folder.
pub(crate) async fn send_folder(cx: &Context, source: &Source, options: &FileOptions) -> Result<()> {
    let split = options.platform_split.unwrap_or(source.is_multi());
    let outputs = outputs(source, options, split).await?;
    let transfers: Vec<Vec<Output>> = if split || outputs.len() == 1 {
        vec![outputs]
    } else if options.delete {
        let text = "exporter option mode=delete of several platforms in one folder (platform-split=false)";
        return Err(Error::Unsupported(text.into()));
    } else {
        let names = platforms_of(source)?;
        let outputs = blocking(move || check_overlap(outputs, &names)).await?;
        outputs.into_iter().map(|output| vec![output]).collect()
    };
    let (now, empty) = (now(), empty_folder(cx)?);
    for mut outputs in transfers {
        outputs.sort_by(|a, b| a.folder.cmp(&b.folder));
        let trees = outputs.into_iter().map(|output| output.into_tree(now, &empty)).collect::<Result<_>>()?;
        let step = Arc::new(cx.step("copying files"));
        let watcher = Arc::clone(&step);
        let progress: diffcopy::Progress = Arc::new(move |bytes, _| watcher.moved(bytes, 0));
        let outcome = cx.client()?.send_trees(trees, progress).await;
        match Arc::into_inner(step) {
            Some(step) => step.end(outcome)?,
            None => outcome?,
        }
    }
    Ok(())
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(0)
}

async fn outputs(source: &Source, options: &FileOptions, split: bool) -> Result<Vec<Output>> {
    let platforms = source.platforms()?;
    let mut all = Vec::new();
    for platform in &platforms {
        let root = match source.tree(&platform.id)? {
            Some(tree) => Some(tree.open().await.map_err(Error::of_ref("open the result"))?),
            None => None,
        };
        let folder = if split { folder_name(&platform.id) } else { String::new() };
        let epoch = epoch(source, options, &platform.id)?;
        let mut output = Output { folder, root, epoch, extra: Vec::new() };
        let alone = split || !source.is_multi();
        output.extra = attest(source, options, platform, &output, alone).await?;
        all.push(output);
    }
    Ok(all)
}

fn platforms_of(source: &Source) -> Result<Vec<String>> {
    Ok(source.platforms()?.into_iter().map(|platform| platform.id).collect())
}

fn folder_name(platform: &str) -> String {
    platform.replace('/', "_")
}

fn epoch(source: &Source, options: &FileOptions, platform: &str) -> Result<Option<i64>> {
    match (options.epoch, source.value(EPOCH, platform)) {
        (Some(epoch), _) => Ok(epoch),
        (None, Some(value)) => parse_epoch("SOURCE_DATE_EPOCH", &String::from_utf8_lossy(value)),
        (None, None) => Ok(None),
    }
}

/// The statements about a platform's files, by file name. With `alone` no other platform's lie in the same folder.
async fn attest(
    source: &Source,
    options: &FileOptions,
    platform: &ResultPlatform,
    output: &Output,
    alone: bool,
) -> Result<Vec<(String, Bytes)>> {
    let all = source.attestations.get(&platform.id).map(Vec::as_slice).unwrap_or_default();
    let all: Vec<Attestation> = all.iter().filter(|a| !a.is_inline_only()).cloned().collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let all = unbundle(&all).await?;
    let root = output.root.as_ref().map(Root::try_clone).transpose()?;
    let subjects = blocking(move || root.map_or_else(|| Ok(Vec::new()), |root| file_subjects(&root))).await?;
    let mut files: Vec<(String, Bytes)> = Vec::new();
    for (attestation, statement) in all.iter().zip(statements(&all, &subjects).await?) {
        let path = Path::new(&attestation.path);
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let mut name = format!("{}{}", options.attestation_prefix, part(path.file_name()));
        if !alone {
            let (stem, extension) = name.rsplit_once('.').map_or((name.as_str(), ""), |(s, e)| (s, e));
            let dot = if extension.is_empty() { "" } else { "." };
            name = format!("{stem}.{}{dot}{extension}", folder_name(&platform.id));
        }
        if name.contains('/') || files.iter().any(|(other, _)| *other == name) {
            return Err(Error::Conflict(format!(
                "attestations cannot be written to {name}: the name is taken or has a slash"
            )));
        }
        let json = gojson::to_vec_indent(&statement).map_err(Error::json("a statement"))?;
        files.push((name, json.into()));
    }
    Ok(files)
}

/// Every regular file with its digest.
fn file_subjects(root: &Root) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for found in Walk::new(root)? {
        let found = found?;
        if !found.meta.is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&found.path).into_owned();
        let mut file = found.dir.open_file(&found.name).map_err(Error::io(format!("open {path}")))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut buffer).map_err(Error::io(format!("read {path}")))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
        }
        subjects.push(Subject::new(path, &Digest::from_sha256(hash.finalize().into())));
    }
    Ok(subjects)
}

/// Refuses files of one platform that would overwrite those of another.
fn check_overlap(outputs: Vec<Output>, platforms: &[String]) -> Result<Vec<Output>> {
    let mut seen = HashMap::new();
    for (output, platform) in outputs.iter().zip(platforms) {
        let mut paths: Vec<Bytes> = output.extra.iter().map(|(name, _)| Bytes::from(name.clone())).collect();
        if let Some(root) = &output.root {
            for found in Walk::new(root)? {
                let found = found?;
                if !found.meta.is_dir() {
                    paths.push(found.path);
                }
            }
        }
        for path in paths {
            if let Some(first) = seen.insert(path.clone(), platform) {
                let path = String::from_utf8_lossy(&path);
                let text = format!(
                    "cannot overwrite {path} from {first} with {platform} when split option is disabled (platform-split)"
                );
                return Err(Error::Conflict(text));
            }
        }
    }
    Ok(outputs)
}

impl Output {
    fn into_tree(self, now: i64, empty: &Path) -> Result<diffcopy::Tree> {
        let time = |seconds: i64| seconds.saturating_mul(NANOSECONDS);
        let at = (!self.folder.is_empty()).then(|| Stat {
            path: self.folder.clone().into(),
            mode: go_mode::encode(Kind::Dir, 0o755),
            mod_time: time(self.epoch.unwrap_or(0)),
            ..Stat::default()
        });
        let mut filter = Filter::default();
        if let Some(epoch) = self.epoch {
            filter.map = Some(Arc::new(move |stat: &mut Stat| {
                stat.mod_time = time(epoch);
                Mapped::Keep
            }));
        }
        let extra = self.extra.into_iter().map(|(name, data)| ExtraFile {
            stat: Stat {
                path: name.into(),
                mode: go_mode::encode(Kind::File, 0o600),
                mod_time: time(self.epoch.unwrap_or(now)),
                ..Stat::default()
            },
            data,
        });
        let extra = extra.collect();
        let root = self.root.map_or_else(|| Root::open(empty), Ok)?;
        Ok(diffcopy::Tree { at, root, filter, extra })
    }
}

/// A folder with nothing in it: the tree of `FROM scratch`.
fn empty_folder(cx: &Context) -> Result<PathBuf> {
    let path = cx.store.dir().join("empty");
    std::fs::create_dir_all(&path).map_err(Error::io(format!("create {}", path.display())))?;
    Ok(path)
}
