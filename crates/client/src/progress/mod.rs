//! What a build is doing, shown while it does it.
//!
//! ```text
//!   Status stream ─┐            ┌─▶ rawjson | plain | tty | quiet      (standard error)
//!   [auth] steps  ─┴─▶ Events ──┼─▶ trace file                         one thread for all, so that a
//!                               └─▶ cache metrics                      slow terminal holds nobody up
//! ```

mod ansi;
mod model;
mod plain;
mod rawjson;
mod terminal;
pub mod time;
mod tty;
mod window;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use kiln_oci::Digest;
use kiln_proto::control::{StatusResponse, Vertex};

use crate::{Error, metrics::Metrics};

/// How to show progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// [`Mode::Tty`] on a terminal, [`Mode::Plain`] elsewhere.
    #[default]
    Auto,
    /// Lines that stay.
    Plain,
    /// A display that is drawn over itself.
    Tty,
    /// A JSON object for each message of the daemon.
    RawJson,
    /// Nothing.
    Quiet,
}

impl std::str::FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "" | "auto" => Self::Auto,
            "plain" => Self::Plain,
            "tty" => Self::Tty,
            "rawjson" => Self::RawJson,
            "quiet" | "none" => Self::Quiet,
            _ => return Err(Error::Usage(format!("invalid progress mode {text}"))),
        })
    }
}

/// How to show progress, beside the mode: read from the environment once, by whoever may.
#[derive(Clone, Debug)]
pub struct Style {
    /// Time between two refreshes; while nothing happens, one and a half times that.
    pub rate: Duration,
    /// Cut long names in plain mode.
    pub truncate: bool,
    /// Lines of a running step's log in tty mode.
    pub log_lines: usize,
    /// Colours in tty mode; none without.
    pub colors: Option<ansi::Colors>,
    /// What is said once before all steps in plain mode, such as who builds.
    pub header: Option<String>,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            rate: Duration::from_millis(100),
            truncate: false,
            log_lines: 6,
            colors: Some(ansi::Colors::default()),
            header: None,
        }
    }
}

impl Style {
    /// The style that variables of the environment ask for: `TTY_DISPLAY_RATE` (ms), `PROGRESS_NO_TRUNC`,
    /// `BUILDKIT_TTY_LOG_LINES`, `BUILDKIT_COLORS`, `NO_COLOR`.
    #[must_use]
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| env(name).and_then(|v| v.parse::<u64>().ok()).filter(|n| *n > 0);
        let plain = Self::default();
        Self {
            rate: number("TTY_DISPLAY_RATE").map_or(plain.rate, Duration::from_millis),
            truncate: env("PROGRESS_NO_TRUNC").as_deref() == Some("0"),
            log_lines: number("BUILDKIT_TTY_LOG_LINES")
                .and_then(|n| n.try_into().ok())
                .unwrap_or(plain.log_lines),
            colors: match env("NO_COLOR") {
                Some(value) if !value.is_empty() => None,
                _ => Some(ansi::Colors::parse(&env("BUILDKIT_COLORS").unwrap_or_default())),
            },
            header: None,
        }
    }
}

/// Something that looks at events.
trait View: Send {
    /// Something happened. May put off showing it.
    fn update(&mut self, event: &StatusResponse) -> io::Result<()>;

    /// It is time to show what was put off.
    fn refresh(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// No more will happen.
    fn finish(&mut self) -> io::Result<()> {
        self.refresh()
    }
}

/// Where events go.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<StatusResponse>);

impl Events {
    /// Shows an event.
    pub fn send(&self, event: StatusResponse) {
        // A display that is gone shows nothing.
        drop(self.0.send(event));
    }

    /// Shows a step of the client's own, which takes no time.
    pub fn step(&self, name: &str) {
        let digest = Digest::sha256(kiln_session::random_id()).to_string();
        let now = Some(time::now());
        let started = Vertex { digest, name: name.to_owned(), started: now, ..Vertex::default() };
        let completed = Vertex { completed: now, ..started.clone() };
        for vertex in [started, completed] {
            self.send(StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() });
        }
    }
}

/// A running display.
pub struct Display {
    thread: JoinHandle<Finished>,
}

/// What a display leaves behind.
pub struct Finished {
    /// How many steps were cached, if that was to be counted.
    pub metrics: Option<Metrics>,
    /// The first line that could not be written.
    pub error: Option<io::Error>,
}

/// Where a display is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum To {
    /// Standard output, when progress is what was asked for.
    Stdout,
    /// Standard error, where it is out of the way of results.
    #[default]
    Stderr,
}

/// Where events go beside the display.
#[derive(Default)]
pub struct Extras {
    /// A file for raw JSON.
    pub trace: Option<File>,
    /// Count cached steps.
    pub metrics: bool,
}

impl Display {
    /// Starts a display. It ends when all [`Events`] are dropped.
    ///
    /// # Errors
    /// [`Error::Usage`] when a terminal is asked for and there is none.
    pub fn start(to: To, mode: Mode, style: Style, extras: Extras) -> Result<(Self, Events), Error> {
        let terminal = match to {
            To::Stdout => io::stdout().is_terminal(),
            To::Stderr => io::stderr().is_terminal(),
        };
        let out = || -> Box<dyn Write + Send> {
            match to {
                To::Stdout => Box::new(io::stdout()),
                To::Stderr => Box::new(io::stderr()),
            }
        };
        let rate = style.rate;
        let mut views: Vec<Box<dyn View>> = Vec::new();
        match mode {
            Mode::Tty if !terminal => {
                return Err(Error::Usage("failed to get console: provided file is not a console".into()));
            }
            Mode::Auto | Mode::Tty if terminal => views.push(Box::new(tty::Tty::new(out(), style))),
            Mode::Auto | Mode::Plain | Mode::Tty => views.push(Box::new(plain::Plain::new(out(), style))),
            Mode::RawJson => views.push(Box::new(rawjson::RawJson::new(out()))),
            Mode::Quiet => {}
        }
        if let Some(file) = extras.trace {
            views.push(Box::new(rawjson::RawJson::new(file)));
        }
        let metrics = extras.metrics.then(Metrics::default);
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("progress".into())
            .spawn(move || run(&receiver, views, metrics, rate))
            .map_err(Error::io("starting the progress display"))?;
        Ok((Self { thread }, Events(sender)))
    }

    /// Waits until everything is shown. All [`Events`] must be gone.
    #[must_use]
    pub fn finish(self) -> Finished {
        self.thread.join().unwrap_or_else(|_| Finished {
            metrics: None,
            error: Some(io::Error::other("the progress display panicked")),
        })
    }
}

fn run(
    events: &mpsc::Receiver<StatusResponse>,
    mut views: Vec<Box<dyn View>>,
    mut metrics: Option<Metrics>,
    rate: Duration,
) -> Finished {
    let mut error = None;
    let mut each = |views: &mut Vec<Box<dyn View>>, act: &dyn Fn(&mut dyn View) -> io::Result<()>| {
        // Whoever cannot write once will not be able to later.
        views.retain_mut(|view| match act(view.as_mut()) {
            Ok(()) => true,
            Err(problem) => {
                error.get_or_insert(problem);
                false
            }
        });
    };
    let mut refreshed: Option<Instant> = None;
    loop {
        match events.recv_timeout(rate + rate / 2) {
            Ok(event) => {
                if let Some(metrics) = &mut metrics {
                    metrics.count(&event);
                }
                each(&mut views, &|view| view.update(&event));
                if refreshed.is_some_and(|at| at.elapsed() < rate) {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        refreshed = Some(Instant::now());
        each(&mut views, &|view| view.refresh());
    }
    each(&mut views, &|view| view.finish());
    Finished { metrics, error }
}

/// The tail of each failed step's log, which is what people look for at the end.
fn write_failures(out: &mut impl Write, model: &model::Model) -> io::Result<()> {
    for vertex in model.shown() {
        if vertex.error.is_empty() || model::is_canceled(&vertex.error) {
            continue;
        }
        writeln!(out, "------\n > {}:", vertex.name)?;
        for line in vertex.tail() {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "------")?;
    }
    Ok(())
}
