//! A folder to build from, in two versions.

use std::{
    fs::File,
    mem::MaybeUninit,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant, UNIX_EPOCH},
};

use rustix::fs::inotify;

use super::PATIENCE;

/// Many files whose paths and sizes are the same in each version, and whose bytes and times are not.
pub(crate) struct Context;

const FOLDERS: u64 = 20;
const FILES: u64 = 40;

impl Context {
    /// Makes `folder/context` be version `version`.
    pub(crate) fn write(folder: &Path, version: u64) {
        let context = folder.join("context");
        for n in 0..FOLDERS {
            let folder = context.join(format!("folder{n}"));
            std::fs::create_dir_all(&folder).unwrap();
            for m in 0..FILES {
                let text = format!("{version} {n:02} {m:02}\n").repeat(20 + (n * m) as usize);
                let path = folder.join(format!("file{m}"));
                std::fs::write(&path, text).unwrap();
                set_time(&path, version);
            }
            set_time(&folder, 0);
        }
        // This one is there in odd versions only.
        let odd = context.join("odd");
        if version % 2 == 1 {
            std::fs::write(&odd, "odd\n").unwrap();
            set_time(&odd, 0);
        } else if odd.exists() {
            std::fs::remove_file(&odd).unwrap();
        }
        set_time(&context, 0);
    }
}

impl Context {
    /// All files are the same in both folders.
    pub(crate) fn assert_equal(one: &Path, other: &Path) {
        for n in 0..FOLDERS {
            for m in 0..FILES {
                let path = format!("folder{n}/file{m}");
                let read = |folder: &Path| std::fs::read(folder.join(&path)).unwrap();
                assert!(read(one) == read(other), "{path}");
            }
        }
        assert_eq!(one.join("odd").exists(), other.join("odd").exists());
    }
}

/// Sees when a client reads the files.
#[derive(Clone)]
pub(crate) struct Watch(Arc<(Mutex<Reading>, Condvar)>);

/// When the first file was opened, how many were closed, and when the last one was.
#[derive(Clone, Copy, Default)]
struct Reading {
    begun: Option<Instant>,
    closed: u64,
    ended: Option<Instant>,
}

impl Watch {
    pub(crate) fn new(folder: &Path) -> Self {
        let events = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        let wanted = inotify::WatchFlags::OPEN | inotify::WatchFlags::CLOSE_NOWRITE;
        for n in 0..FOLDERS {
            for m in 0..FILES {
                let file = folder.join(format!("context/folder{n}/file{m}"));
                inotify::add_watch(&events, file, wanted).unwrap();
            }
        }
        let watch = Self(Arc::default());
        let told = watch.clone();
        std::thread::spawn(move || {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(&events, &mut buffer);
            while let Ok(event) = events.next() {
                let now = Instant::now();
                let mut reading = told.0.0.lock().unwrap();
                if event.events().contains(inotify::ReadFlags::CLOSE_NOWRITE) {
                    reading.closed += 1;
                }
                reading.begun.get_or_insert(now);
                if reading.closed == FOLDERS * FILES {
                    reading.ended = Some(now);
                    return;
                }
                drop(reading);
                told.0.1.notify_all();
                // The last one to look, but for us, has gone.
                if Arc::strong_count(&told.0) == 1 {
                    return;
                }
            }
        });
        watch
    }

    /// Waits until the first file is opened.
    pub(crate) fn wait(&self) -> Instant {
        let start = Instant::now();
        let mut reading = self.0.0.lock().unwrap();
        loop {
            if let Some(begun) = reading.begun {
                return begun;
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "no client reads the context");
            reading = self.0.1.wait_timeout(reading, left).unwrap().0;
        }
    }

    /// When the last file was closed.
    pub(crate) fn ended(&self) -> Option<Instant> {
        self.0.0.lock().unwrap().ended
    }
}

fn set_time(path: &Path, version: u64) {
    let time = UNIX_EPOCH + Duration::from_secs(900_000_000 + version);
    File::open(path).unwrap().set_modified(time).unwrap();
}
