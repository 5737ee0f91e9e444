//! A build's progress: an append-only log on disk, which any number of clients read from the start.
//!
//! ```text
//!   <root>/kiln/builds/<ref>.log     for each event: length (4 bytes, little endian), encoded StatusResponse
//! ```
//!
//! Nothing of it stays in memory. Readers are told how far it is written and whether the build has ended; the file goes with the
//! last of them.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use kiln_engine::{Event, ProgressSink};
use kiln_proto::control::{self, StatusResponse};
use prost::Message as _;
use tokio::sync::watch;

/// How far the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written {
    bytes: u64,
    ended: bool,
}

/// The log of one build.
#[derive(Debug)]
pub(crate) struct BuildLog {
    path: PathBuf,
    file: Mutex<File>,
    written: watch::Sender<Written>,
}

impl BuildLog {
    /// A new log in the folder `dir`.
    pub(crate) fn create(dir: &Path, name: &str) -> std::io::Result<Arc<Self>> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{name}.log"));
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        // What steps print is for the daemon's user, and for clients.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        Ok(Arc::new(Self { path, file: Mutex::new(file), written: watch::Sender::default() }))
    }

    fn append(&self, message: &StatusResponse) {
        let length = message.encoded_len();
        let mut record = Vec::with_capacity(4 + length);
        record.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(&message.encode_to_vec());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match file.write_all(&record) {
            Ok(()) => self.written.send_modify(|w| w.bytes += record.len() as u64),
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "progress is lost"),
        }
    }

    /// Its file, which goes when nobody has it any more.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// No more will come.
    pub(crate) fn end(&self) {
        self.written.send_modify(|w| w.ended = true);
    }

    /// Reads from the start.
    pub(crate) fn reader(self: &Arc<Self>) -> std::io::Result<Reader> {
        Ok(Reader {
            file: File::open(&self.path)?,
            at: 0,
            written: self.written.subscribe(),
            _log: Some(self.clone()),
        })
    }
}

impl Drop for BuildLog {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "a build's log stays");
        }
    }
}

impl ProgressSink for BuildLog {
    fn event(&self, event: Event) {
        if let Some(message) = message(event) {
            self.append(&message);
        }
    }
}

/// Reads a log while it is written.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    at: u64,
    written: watch::Receiver<Written>,
    _log: Option<Arc<BuildLog>>,
}

/// Events are sent together up to about this size.
const BATCH: usize = 1 << 20;

impl Reader {
    /// Reads the file of a build that has ended.
    pub(crate) fn of_ended(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let written = Written { bytes: file.metadata()?.len(), ended: true };
        Ok(Self { file, at: 0, written: watch::channel(written).1, _log: None })
    }

    /// What has happened since the last call; `None` when the build has ended and all was read.
    pub(crate) async fn next(&mut self) -> Option<StatusResponse> {
        let at = self.at;
        let written = *self.written.wait_for(|w| w.bytes > at || w.ended).await.ok()?;
        if written.bytes == at {
            return None;
        }
        match self.read(written.bytes) {
            Ok(message) => Some(message),
            Err(error) => {
                tracing::warn!(%error, "reading progress");
                None
            }
        }
    }

    fn read(&mut self, until: u64) -> std::io::Result<StatusResponse> {
        let mut all = StatusResponse::default();
        let mut size = 0;
        self.file.seek(SeekFrom::Start(self.at))?;
        while self.at < until && size < BATCH {
            let mut length = [0; 4];
            self.file.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            // A file that was cut, or is none of ours.
            if length > until.saturating_sub(self.at + 4) {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    "an event ends beyond the log",
                ));
            }
            let mut record = vec![0; usize::try_from(length).unwrap_or_default()];
            self.file.read_exact(&mut record)?;
            self.at += 4 + record.len() as u64;
            size += record.len();
            all.merge(record.as_slice()).map_err(std::io::Error::other)?;
        }
        Ok(all)
    }
}

fn time(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

/// An event as clients are told; decisions are for others.
fn message(event: Event) -> Option<StatusResponse> {
    let mut message = StatusResponse::default();
    match event {
        Event::Vertex(v) => message.vertexes.push(control::Vertex {
            digest: v.digest.to_string(),
            inputs: v.inputs.iter().map(ToString::to_string).collect(),
            name: v.name.to_string(),
            cached: v.cached,
            started: v.started.map(time),
            completed: v.completed.map(time),
            error: v.error.map(|e| e.to_string()).unwrap_or_default(),
            progress_group: v.progress_group,
        }),
        Event::Status(s) => message.statuses.push(control::VertexStatus {
            id: s.id.to_string(),
            vertex: s.vertex.to_string(),
            name: s.name.to_string(),
            current: s.current,
            total: s.total,
            timestamp: Some(time(s.timestamp)),
            started: s.started.map(time),
            completed: s.completed.map(time),
        }),
        Event::Log(l) => message.logs.push(control::VertexLog {
            vertex: l.vertex.to_string(),
            timestamp: Some(time(l.timestamp)),
            stream: l.stream,
            msg: l.data,
        }),
        Event::Warning(w) => message.warnings.push(control::VertexWarning {
            vertex: w.vertex.to_string(),
            level: w.level,
            short: w.short,
            detail: w.detail,
            url: w.url,
            info: w.info,
            ranges: w.ranges,
        }),
        Event::Decision(_) => return None,
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use kiln_engine::LogEvent;
    use kiln_oci::Digest;

    use super::*;

    #[tokio::test]
    async fn logs_of_builds_that_have_ended_may_be_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = BuildLog::create(dir.path(), "b").unwrap();
        log.event(log_event("one"));
        log.event(log_event("two"));
        let kept = dir.path().join("kept");
        std::fs::hard_link(log.path(), &kept).unwrap();
        drop(log);
        let mut reader = Reader::of_ended(&kept).unwrap();
        assert_eq!(reader.next().await.unwrap().logs.len(), 2);
        assert!(reader.next().await.is_none());
        let length = std::fs::metadata(&kept).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&kept).unwrap().set_len(length - 1).unwrap();
        assert!(Reader::of_ended(&kept).unwrap().next().await.is_none());
        // A length that no log has.
        std::fs::write(&kept, [0xff; 64]).unwrap();
        assert!(Reader::of_ended(&kept).unwrap().next().await.is_none());
    }

    fn log_event(text: &str) -> Event {
        Event::Log(LogEvent {
            vertex: Digest::sha256("v"),
            stream: 1,
            data: text.to_owned().into(),
            timestamp: SystemTime::UNIX_EPOCH,
        })
    }

    #[tokio::test]
    async fn readers_see_all_from_the_start_and_then_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = BuildLog::create(dir.path(), "a").unwrap();
        log.event(log_event("one"));
        let mut reader = log.reader().unwrap();
        assert_eq!(reader.next().await.unwrap().logs[0].msg, "one");
        let writer = log.clone();
        tokio::spawn(async move {
            writer.event(log_event("two"));
            writer.end();
        });
        assert_eq!(reader.next().await.unwrap().logs[0].msg, "two");
        assert!(reader.next().await.is_none());
        let mut late = log.reader().unwrap();
        let texts: Vec<_> = late.next().await.unwrap().logs.into_iter().map(|l| l.msg).collect();
        assert_eq!(texts, ["one", "two"]);
    }

    #[tokio::test]
    async fn the_file_goes_with_the_last_reader() {
        let dir = tempfile::tempdir().unwrap();
        let log = BuildLog::create(dir.path(), "a").unwrap();
        let reader = log.reader().unwrap();
        drop(log);
        assert!(dir.path().join("a.log").exists());
        drop(reader);
        assert!(!dir.path().join("a.log").exists());
    }
}
