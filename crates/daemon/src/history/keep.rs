//! The files that records are.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kiln_oci::Digest;
use kiln_ops::Content;
use kiln_proto::{
    history::{Build, File, Files},
    rpc,
};
use prost::Message;

use super::{live::Live, turns::Turns};

const MAGIC: &[u8; 8] = b"KILNREC1";
/// No more builds are kept,
const MAX_BUILDS: usize = 300;
/// and no more bytes of their records.
const MAX_BUILD_BYTES: u64 = 64 << 20;
/// Their logs are kept up to so many bytes in all;
const MAX_LOG_BYTES: u64 = 256 << 20;
/// none that is larger than this.
const MAX_LOG: u64 = 32 << 20;
/// Errors with their details are kept up to so many bytes.
const MAX_ERROR_BYTES: u64 = 16 << 20;
/// No more lists of files are kept,
const MAX_LISTS: usize = 2000;
/// and no more bytes of them.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// Of a build that takes more, the last steps are left out, so that one build cannot push out all others.
const MAX_BUILD: usize = 8 << 20;
/// One build leaves no more lists,
const MAX_BUILD_LISTS: usize = 500;
/// and no more bytes of them, so that it cannot push out those of all others.
const MAX_BUILD_LIST_BYTES: usize = 16 << 20;
/// No more files are listed of one input.
const MAX_FILES: usize = 20_000;
/// A larger file than this is none of ours.
const MAX_FILE: u64 = 32 << 20;

/// Nobody takes so long to write a record.
const STALE: Duration = Duration::from_secs(60);

/// The records in a state folder.
#[derive(Clone, Debug)]
pub(crate) struct History {
    dir: PathBuf,
    turns: Turns,
    live: Arc<Live>,
}

impl History {
    /// Those in the folder `dir`, which need not be there.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, turns: Turns::default(), live: Arc::default() }
    }

    /// What happens now.
    pub(super) fn live(&self) -> &Live {
        &self.live
    }

    /// Whose turn it is to ask about builds.
    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Removes what killed processes left half written. Blocks.
    pub(crate) fn sweep(&self) {
        for dir in ["builds", "errors", "files", "pinned"].map(|name| self.dir.join(name)) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let aside = entry.file_name().as_encoded_bytes().starts_with(b".");
                // What this process is writing is younger than that.
                let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
                if aside && age.is_some_and(|age| age > STALE) {
                    // It is of no use, and in nobody's way.
                    drop(fs::remove_file(entry.path()));
                }
            }
        }
    }

    /// Keeps a build. Blocks.
    pub(crate) fn save(&self, build: &Build) -> io::Result<()> {
        write(&self.dir.join("builds"), &name_of(build), &*bounded(build, MAX_BUILD))
    }

    /// Keeps a build's log, a file on the same file system that may still be written to. Blocks.
    pub(crate) fn save_log(&self, build: &Build, log: &Path) -> io::Result<()> {
        if fs::metadata(log)?.len() > MAX_LOG {
            return Ok(());
        }
        let dir = self.dir.join("logs");
        fs::create_dir_all(&dir)?;
        fs::hard_link(log, dir.join(name_of(build)))
    }

    /// Keeps the error of a build with its details, and notes it in the record. Blocks.
    pub(crate) fn save_error(&self, build: &mut Build, error: &rpc::Status) -> io::Result<()> {
        let data = error.encode_to_vec();
        let digest = Digest::sha256(&data);
        place(&self.dir.join("errors"), &format!("{}.{}", name_of(build), digest.hex()), &data)?;
        build.error_size = i64::try_from(data.len()).unwrap_or(i64::MAX);
        build.error_digest = digest.to_string();
        Ok(())
    }

    /// Removes the oldest of what is more than may be kept. Blocks.
    ///
    /// # Errors
    /// The first, when all that can be removed is.
    pub(crate) fn trim(&self) -> io::Result<()> {
        let (pinned, none) = (self.pinned()?, HashSet::new());
        let limits = [
            ("builds", MAX_BUILDS, MAX_BUILD_BYTES, &pinned),
            ("logs", MAX_BUILDS, MAX_LOG_BYTES, &pinned),
            ("errors", MAX_BUILDS, MAX_ERROR_BYTES, &pinned),
            ("files", MAX_LISTS, MAX_LIST_BYTES, &none),
        ];
        let trimmed = limits.map(|(dir, count, bytes, stay)| limit(&self.dir.join(dir), count, bytes, stay));
        trimmed.into_iter().collect()
    }

    /// A blob that a record names. Blocks.
    pub(crate) fn blob(&self, digest: &Digest) -> io::Result<Option<fs::File>> {
        let dir = self.dir.join("errors");
        let found = entries(&dir)?.into_iter().find(|(name, _)| part_of(name) == Some(digest.hex()));
        found.map(|(name, _)| fs::File::open(dir.join(name))).transpose()
    }

    /// Removes the logs and errors of all builds but those that are pinned. Blocks.
    pub(crate) fn give_room(&self) -> io::Result<()> {
        let pinned = self.pinned()?;
        let logs = limit(&self.dir.join("logs"), 0, 0, &pinned);
        logs.and(limit(&self.dir.join("errors"), 0, 0, &pinned))
    }

    /// Where the log of a build is, if one is kept. Blocks.
    pub(crate) fn log(&self, reference: &str) -> io::Result<Option<PathBuf>> {
        let Some((name, _)) = self.find(reference)? else { return Ok(None) };
        let path = self.dir.join("logs").join(name);
        Ok(path.exists().then_some(path))
    }

    /// Names of builds that stay whatever else is kept.
    pub(super) fn pinned(&self) -> io::Result<HashSet<String>> {
        Ok(entries(&self.dir.join("pinned"))?.into_iter().map(|(name, _)| name).collect())
    }

    /// Says whether the build whose files have this name is to stay. Blocks.
    pub(super) fn pin(&self, name: &str, stays: bool) -> io::Result<()> {
        let dir = self.dir.join("pinned");
        if !stays {
            return remove(&dir.join(name));
        }
        fs::create_dir_all(&dir)?;
        fs::OpenOptions::new().create(true).append(true).open(dir.join(name)).map(drop)
    }

    /// Forgets the build whose files have this name. Blocks.
    pub(super) fn forget(&self, name: &str) -> io::Result<()> {
        let errors = self.dir.join("errors");
        for (error, _) in entries(&errors)?.into_iter().filter(|(error, _)| build_of(error) == name) {
            remove(&errors.join(error))?;
        }
        // The record last: while it is there, the rest can be found.
        for dir in ["pinned", "logs", "builds"] {
            remove(&self.dir.join(dir).join(name))?;
        }
        Ok(())
    }

    /// The name and record of a build. Blocks.
    pub(super) fn find(&self, reference: &str) -> io::Result<Option<(String, Build)>> {
        let (dir, end) = (self.dir.join("builds"), name_end(reference));
        for (name, _) in entries(&dir)?.into_iter().rev().filter(|(name, _)| name.ends_with(&end)) {
            if let Some(build) = read_build(&dir, &name)?.filter(|build| build.r#ref == reference) {
                return Ok(Some((name, build)));
            }
        }
        Ok(None)
    }

    /// Keeps the lists of files that are not known yet. Blocks.
    ///
    /// # Errors
    /// The first, when all that can be kept is.
    pub(crate) fn save_files(&self, contents: &HashMap<Digest, Content>) -> io::Result<()> {
        let file = |listed: kiln_fstree::contenthash::Listed| {
            let [a, b, c, d, e, f, g, h, ..] = listed.sum;
            File { path: listed.path, sum: u64::from_be_bytes([a, b, c, d, e, f, g, h]) }
        };
        let list = |content: &Content| {
            let (listed, complete) = content.list(MAX_FILES).map_err(io::Error::other)?;
            Ok(Files { files: listed.into_iter().map(file).collect(), truncated: !complete })
        };
        let mut sorted: Vec<_> = contents.iter().collect();
        sorted.sort_unstable_by_key(|(digest, _)| *digest);
        self.save_lists(sorted.into_iter().map(|(digest, content)| (digest, || list(content))))
    }

    /// Keeps the lists of one build, as far as they go into what a build may leave.
    fn save_lists<'a, F>(&self, lists: impl Iterator<Item = (&'a Digest, F)>) -> io::Result<()>
    where
        F: FnOnce() -> io::Result<Files>,
    {
        let dir = self.dir.join("files");
        let (mut room, mut outcome) = (MAX_BUILD_LIST_BYTES, Ok(()));
        let missing = lists.filter(|(digest, _)| !dir.join(digest.hex()).exists());
        for (digest, list) in missing.take(MAX_BUILD_LISTS) {
            let written = list().and_then(|files| match room.checked_sub(files.encoded_len()) {
                Some(left) => {
                    room = left;
                    write(&dir, digest.hex(), &files)
                }
                // Another may be smaller.
                None => Ok(()),
            });
            outcome = outcome.and(written);
        }
        outcome
    }

    /// The list of files that a content digest is made of, if one is kept. Blocks.
    pub(crate) fn files(&self, digest: &str) -> Option<Files> {
        let digest = Digest::parse(digest).ok()?;
        read(&self.dir.join("files").join(digest.hex())).ok()
    }

    /// All builds, the latest first, and what is wrong with records that cannot be read. Blocks.
    pub(crate) fn builds(&self) -> io::Result<(Vec<Build>, Vec<String>)> {
        let dir = self.dir.join("builds");
        let (mut builds, mut problems) = (Vec::new(), Vec::new());
        for (name, _) in entries(&dir)?.into_iter().rev() {
            match read_build(&dir, &name) {
                Ok(build) => builds.extend(build),
                Err(error) => problems.push(format!("a record is left out: {error}")),
            }
        }
        Ok((builds, problems))
    }
}

/// The finished files of a folder by name, with their sizes.
fn entries(dir: &Path) -> io::Result<Vec<(String, fs::Metadata)>> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut all = Vec::new();
    for entry in listed {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => all.push((name, metadata)),
            _ => {}
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

/// The name of a build's files.
pub(super) fn name_of(build: &Build) -> String {
    let started = build.started.unwrap_or_default();
    let milliseconds = started.seconds * 1000 + i64::from(started.nanos / 1_000_000);
    format!("{milliseconds:013}{}", name_end(&build.r#ref))
}

/// The name of the build that a file belongs to.
fn build_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(build, _)| build)
}

/// What part of its build a file is.
fn part_of(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, part)| part)
}

fn name_end(reference: &str) -> String {
    format!("-{}", &Digest::sha256(reference).hex()[..8])
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the oldest files beyond the limits, for which those that are to stay do not count.
fn limit(dir: &Path, count: usize, bytes: u64, stay: &HashSet<String>) -> io::Result<()> {
    let mut all = entries(dir)?;
    all.retain(|(name, _)| !stay.contains(build_of(name)));
    let mut size: u64 = all.iter().map(|(_, metadata)| metadata.len()).sum();
    if all.len() <= count && size <= bytes {
        return Ok(());
    }
    all.sort_by_key(|(name, metadata)| (metadata.modified().ok(), name.clone()));
    let mut left = all.len();
    for (name, metadata) in all {
        if left <= count && size <= bytes {
            break;
        }
        remove(&dir.join(name))?;
        (left, size) = (left - 1, size - metadata.len());
    }
    Ok(())
}

/// The build with no more steps than go into `most` bytes.
fn bounded(build: &Build, most: usize) -> Cow<'_, Build> {
    let mut size = build.encoded_len();
    if size <= most {
        return Cow::Borrowed(build);
    }
    let mut short = build.clone();
    short.truncated = true;
    while let Some(last) = short.steps.pop_if(|_| size > most) {
        size = size.saturating_sub(last.encoded_len());
    }
    Cow::Owned(short)
}

/// The first 8 hex digits of the SHA-256, as text.
fn checksum(data: &[u8]) -> Vec<u8> {
    Digest::sha256(data).hex()[..8].bytes().collect()
}

fn write(dir: &Path, name: &str, message: &impl Message) -> io::Result<()> {
    let body = message.encode_to_vec();
    let mut data = Vec::with_capacity(16 + body.len());
    data.extend_from_slice(MAGIC);
    data.extend(checksum(&body));
    data.extend(body);
    place(dir, name, &data)
}

/// Writes a file aside and puts it in its place.
fn place(dir: &Path, name: &str, data: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let aside = dir.join(format!(".{name}-{}", kiln_session::random_id()));
    let written = create(&aside, data).and_then(|()| fs::rename(&aside, dir.join(name)));
    if written.is_err() {
        // The error is what matters.
        drop(fs::remove_file(&aside));
    }
    written
}

/// Only the daemon's user may read what builds were told.
fn create(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    io::Write::write_all(&mut options.open(path)?, data)
}

/// The record of that name; `None` for one that has just gone, as the oldest do.
fn read_build(dir: &Path, name: &str) -> io::Result<Option<Build>> {
    match read(&dir.join(name)) {
        Ok(build) => Ok(Some(build)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Clients are told, and need not know where the daemon's folders are.
        Err(error) => Err(io::Error::new(error.kind(), format!("history/builds/{name}: {error}"))),
    }
}

fn read<M: Message + Default>(path: &Path) -> io::Result<M> {
    let broken = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(broken("it is too large"));
    }
    let data = fs::read(path)?;
    let body = data.strip_prefix(MAGIC).ok_or_else(|| broken("it is not of this version"))?;
    let (sum, body) = body.split_at_checked(8).ok_or_else(|| broken("it is cut"))?;
    if checksum(body) != sum {
        return Err(broken("it is damaged"));
    }
    M::decode(body).map_err(|error| broken(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use kiln_proto::history::Step;

    use super::*;

    #[test]
    fn pinned_builds_stay_and_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().join("history"));
        let log = dir.path().join("log");
        fs::write(&log, "a log").unwrap();
        for (reference, seconds) in [("old", 1), ("new", 2)] {
            history.save_log(&build(reference, seconds), &log).unwrap();
            history.save(&build(reference, seconds)).unwrap();
        }
        let name = |reference: &str| history.find(reference).unwrap().map(|(name, _)| name);
        let old = name("old").unwrap();
        history.pin(&old, true).unwrap();
        let pinned = history.pinned().unwrap();
        limit(&dir.path().join("history/builds"), 0, 0, &pinned).unwrap();
        history.give_room().unwrap();
        let left = |history: &History| -> Vec<String> {
            history.builds().unwrap().0.into_iter().map(|build| build.r#ref).collect()
        };
        assert_eq!(left(&history), ["old"]);
        let kept = history.log("old").unwrap().unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), "a log");
        assert_eq!(history.log("new").unwrap(), None);
        history.pin(&old, false).unwrap();
        assert!(history.pinned().unwrap().is_empty());
        history.forget(&old).unwrap();
        assert!(left(&history).is_empty() && !kept.exists() && name("old").is_none());
        let mut failed = build("failed", 4);
        history.save_error(&mut failed, &rpc::Status { code: 2, ..Default::default() }).unwrap();
        history.save(&failed).unwrap();
        let digest = Digest::parse(&failed.error_digest).unwrap();
        assert_eq!(history.blob(&digest).unwrap().unwrap().metadata().unwrap().len(), 2);
        assert!(failed.error_size == 2);
        history.forget(&name("failed").unwrap()).unwrap();
        assert!(history.blob(&digest).unwrap().is_none());
        // A log that is too large is none.
        fs::File::options().write(true).open(&log).unwrap().set_len(MAX_LOG + 1).unwrap();
        history.save_log(&build("large", 3), &log).unwrap();
        history.save(&build("large", 3)).unwrap();
        assert_eq!((left(&history), history.log("large").unwrap()), (vec!["large".to_owned()], None));
    }

    fn build(reference: &str, seconds: i64) -> Build {
        let started = Some(prost_types::Timestamp { seconds, nanos: 0 });
        Build { r#ref: reference.into(), started, ..Build::default() }
    }

    fn refs(history: &History) -> (Vec<String>, usize) {
        let (builds, problems) = history.builds().unwrap();
        (builds.into_iter().map(|build| build.r#ref).collect(), problems.len())
    }

    #[test]
    fn builds_are_read_the_latest_first() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().join("history"));
        assert_eq!(refs(&history), (vec![], 0), "a folder that is not there");
        for (reference, seconds) in [("a", 5), ("b", 7), ("c", 6)] {
            history.save(&build(reference, seconds)).unwrap();
        }
        assert_eq!(refs(&history), (["b", "c", "a"].map(str::to_owned).to_vec(), 0));
        history.save(&build("a", 5)).unwrap();
        assert_eq!(refs(&history).0.len(), 3, "a record is written in one piece over an older one");
    }

    #[test]
    fn a_damaged_record_is_left_out_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().to_owned());
        history.save(&build("good", 1)).unwrap();
        for (seconds, len) in [(2, 20), (3, 12), (4, 0)] {
            history.save(&build("bad", seconds)).unwrap();
            let name = format!("{:013}-{}", seconds * 1000, &Digest::sha256("bad").hex()[..8]);
            let path = dir.path().join("builds").join(name);
            let mut data = fs::read(&path).unwrap();
            data.truncate(len);
            fs::write(&path, data).unwrap();
        }
        let (builds, problems) = history.builds().unwrap();
        assert_eq!((builds.len(), problems.len()), (1, 3), "{problems:?}");
        assert!(problems[2].contains("damaged") && problems[2].contains("0000000002000-"), "{problems:?}");
    }

    #[test]
    fn clients_are_not_told_where_the_records_are() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().to_owned());
        history.save(&build("a", 1)).unwrap();
        let (name, _) = entries(&dir.path().join("builds")).unwrap().remove(0);
        fs::write(dir.path().join("builds").join(&name), "x").unwrap();
        let (_, problems) = history.builds().unwrap();
        assert_eq!(
            problems,
            [format!("a record is left out: history/builds/{name}: it is not of this version")]
        );
    }

    fn digests(count: usize) -> Vec<Digest> {
        (0..count).map(|n| Digest::sha256(n.to_string())).collect()
    }

    fn list(bytes: usize) -> io::Result<Files> {
        Ok(Files { files: vec![File { path: "p".repeat(bytes), sum: 1 }], truncated: false })
    }

    #[test]
    fn a_list_that_cannot_be_made_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().to_owned());
        let digests = digests(3);
        let lists = digests.iter().enumerate().map(|(at, digest)| {
            (digest, move || if at == 1 { Err(io::Error::other("no tree")) } else { list(1) })
        });
        assert_eq!(history.save_lists(lists).unwrap_err().to_string(), "no tree");
        let kept: Vec<bool> = digests.iter().map(|d| history.files(d.as_str()).is_some()).collect();
        assert_eq!(kept, [true, false, true]);
    }

    #[test]
    fn one_build_leaves_no_more_lists_than_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().to_owned());
        let digests = digests(MAX_BUILD_LISTS + 1);
        let sizes = [MAX_BUILD_LIST_BYTES / 2, MAX_BUILD_LIST_BYTES, 1, 1];
        let lists = digests.iter().zip(sizes).map(|(digest, bytes)| (digest, move || list(bytes)));
        history.save_lists(lists).unwrap();
        let kept: Vec<bool> = digests[..4].iter().map(|d| history.files(d.as_str()).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
        let others = History::new(dir.path().join("others"));
        others.save_lists(digests.iter().map(|digest| (digest, || list(1)))).unwrap();
        assert_eq!(entries(&dir.path().join("others/files")).unwrap().len(), MAX_BUILD_LISTS);
        // What is there already counts for nobody.
        others.save_lists(digests.iter().map(|digest| (digest, || list(1)))).unwrap();
        assert_eq!(entries(&dir.path().join("others/files")).unwrap().len(), MAX_BUILD_LISTS + 1);
    }

    #[test]
    fn a_huge_build_is_kept_without_its_last_steps() {
        let step = |n: usize| Step { name: n.to_string(), op: vec![0; 1000].into(), ..Step::default() };
        let whole = Build { steps: (0..100).map(step).collect(), ..build("r", 1) };
        assert_eq!(*bounded(&whole, whole.encoded_len()), whole);
        let short = bounded(&whole, 50_500);
        assert!(short.truncated && short.encoded_len() <= 50_500);
        assert_eq!(short.steps[..], whole.steps[..short.steps.len()]);
        assert!(short.steps.len() > 40, "{}", short.steps.len());
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().to_owned());
        history.trim().unwrap();
        let most = MAX_BUILDS + 2;
        for name in ["builds", "logs", "errors", "files"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            (0..most).for_each(|n| fs::write(dir.path().join(name).join(n.to_string()), "x").unwrap());
        }
        history.pin("7", true).unwrap();
        history.trim().unwrap();
        let left =
            ["builds", "logs", "errors", "files"].map(|name| entries(&dir.path().join(name)).unwrap().len());
        assert_eq!(left, [MAX_BUILDS + 1, MAX_BUILDS + 1, MAX_BUILDS + 1, most]);
        assert!(dir.path().join("builds/7").exists());
    }

    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let write_at = |name: &str, seconds: u64| {
            fs::write(dir.path().join(name), [0; 10]).unwrap();
            let file = fs::File::options().write(true).open(dir.path().join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        let left = || entries(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        for (name, seconds) in [("a", 3), ("b", 1), ("c", 2)] {
            write_at(name, seconds);
        }
        limit(dir.path(), 2, 1000, &HashSet::new()).unwrap();
        assert_eq!(left(), ["a", "c"]);
        limit(dir.path(), 2, 19, &HashSet::new()).unwrap();
        assert_eq!(left(), ["a"]);
    }

    #[test]
    fn what_was_half_written_goes_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().to_owned());
        history.save(&build("a", 1)).unwrap();
        let aside = |name: &str| dir.path().join("builds").join(name);
        for name in [".old", ".new"] {
            fs::write(aside(name), "x").unwrap();
        }
        fs::File::options()
            .write(true)
            .open(aside(".old"))
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        history.sweep();
        assert!(!aside(".old").exists() && aside(".new").exists());
        assert_eq!(refs(&history).0, ["a"], "and is never read");
    }

    #[test]
    fn a_file_of_a_record_begins_with_its_version() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "x", &build("r", 0)).unwrap();
        let data = fs::read(dir.path().join("x")).unwrap();
        // Field 1, three bytes; then an empty time.
        assert_eq!(data, [b"KILNREC1", &checksum(&data[16..])[..], &[0x0a, 1, b'r', 0x12, 0]].concat());
    }
}
