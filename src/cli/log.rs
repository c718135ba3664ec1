//! The log on standard error: its format, its levels, and the limit on repeated lines.
//!
//! Clients and origins can cause most lines, at any rate. In each `log.repeat` one line of a
//! kind is written; the others are counted, and the count is written when the time is over.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// The module to which `log.level` applies; `log.libraries` applies to the others.
const OWN: &str = "peerage";
/// Modules whose lines neither clients nor origins can cause: signals of an operator, and
/// changes of the cluster. All their lines are written.
const UNLIMITED: [&str; 7] = [
    "peerage::cli",
    "peerage::cluster::view",
    "peerage::cluster::discovery",
    "peerage::edge::probe",
    "peerage::edge::warm",
    "peerage::server::run",
    "peerage::tls",
];
/// Length of a line's text in the report of suppressed lines, in characters.
const TEXT_LENGTH: usize = 100;

/// Number of lines that wait to be written. If the reader stalls or has gone, lines are lost,
/// and the edge is not delayed.
pub(super) const LINES: usize = 8192;

/// Starts the log on standard error, written by a thread of its own. Returns the counter of
/// lost lines, the filter for repeated lines, and a guard that writes the last lines when it
/// is dropped.
pub(super) fn init_log(config: &LogConfig) -> (ErrorCounter, Throttle, WorkerGuard) {
    let throttle = Throttle::new(config);
    let (lines, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).finish(io::stderr());
    let lost = lines.error_counter();
    let log = tracing_subscriber::fmt::layer().with_writer(lines).with_target(false);
    // An internal error would be written to standard error, and panic if that fails.
    let log = log.log_internal_errors(false);
    // `try_init` fails only where a test runs two commands in one process.
    let filtered = tracing_subscriber::registry().with(throttle.clone());
    let _ = if is_text(config.format, &io::stderr()) {
        filtered.with(log.with_ansi(io::stderr().is_terminal())).try_init()
    } else {
        filtered.with(log.json().flatten_event(true)).try_init()
    };
    (lost, throttle, guard)
}

/// Returns true if `stream` gets text for people, not JSON.
pub(super) fn is_text(format: LogFormat, stream: &impl IsTerminal) -> bool {
    match format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => stream.is_terminal(),
    }
}

/// The filter in front of the log.
#[derive(Clone)]
pub(super) struct Throttle(Arc<Shared>);

struct Shared {
    own: LevelFilter,
    libraries: LevelFilter,
    period: Duration,
    /// By call site; the program's source bounds their number.
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

/// The lines of one call site.
struct Kind {
    level: Level,
    /// Text of the last written line.
    text: String,
    written: Instant,
    suppressed: u64,
}

/// The suppressed lines of one kind.
#[derive(Debug, PartialEq, Eq)]
struct Suppressed {
    level: Level,
    text: String,
    count: u64,
}

impl Throttle {
    pub(super) fn new(config: &LogConfig) -> Self {
        let (own, libraries) = (filter(config.level), filter(config.libraries));
        Self(Arc::new(Shared { own, libraries, period: config.repeat.0, kinds: Mutex::default() }))
    }

    /// Reports the suppressed lines, once in each period.
    pub(super) async fn report_periodically(self) {
        if self.0.period.is_zero() {
            return;
        }
        loop {
            tokio::time::sleep(self.0.period).await;
            self.report();
        }
    }

    /// Writes the number of lines suppressed since the last report.
    pub(super) fn report(&self) {
        // The lock is released before the lines are written.
        for Suppressed { level, text, count } in self.take_suppressed() {
            match level {
                Level::ERROR => tracing::error!(line = text, count, "log lines suppressed"),
                Level::WARN => tracing::warn!(line = text, count, "log lines suppressed"),
                _ => tracing::info!(line = text, count, "log lines suppressed"),
            }
        }
    }

    fn take_suppressed(&self) -> Vec<Suppressed> {
        let take = |kind: &mut Kind| {
            let count = std::mem::take(&mut kind.suppressed);
            (count > 0).then(|| Suppressed { level: kind.level, text: kind.text.clone(), count })
        };
        self.kinds().values_mut().filter_map(take).collect()
    }

    /// Returns true if the line is written at `now`; otherwise counts it.
    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        if self.0.period.is_zero() || UNLIMITED.iter().any(|module| is_in(metadata.target(), module)) {
            return true;
        }
        let mut kinds = self.kinds();
        let known = kinds.get_mut(&metadata.callsite());
        if let Some(kind) = known.filter(|kind| now.saturating_duration_since(kind.written) < self.0.period) {
            kind.suppressed += 1;
            return false;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let kind = kinds.entry(metadata.callsite()).or_insert_with(|| Kind {
            level: *metadata.level(),
            text: String::new(),
            written: now,
            suppressed: 0,
        });
        (kind.text, kind.written) = (text.0, now);
        true
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Throttle {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let most = if is_in(metadata.target(), OWN) { self.0.own } else { self.0.libraries };
        *metadata.level() <= most
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admits(event, Instant::now())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.own.max(self.0.libraries))
    }
}

/// Returns true if `target` is `module` or a module inside it.
fn is_in(target: &str, module: &str) -> bool {
    target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}

/// The message of a line, cut to [`TEXT_LENGTH`].
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(TEXT_LENGTH).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Period;

    /// Records the text of each line.
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Recorder {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut text = Text::default();
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }

    fn written(config: &LogConfig, lines: impl FnOnce(&Throttle)) -> Vec<String> {
        let (throttle, recorder) = (Throttle::new(config), Recorder::default());
        let subscriber = tracing_subscriber::registry().with(recorder.clone()).with(throttle.clone());
        tracing::subscriber::with_default(subscriber, || lines(&throttle));
        let lines = recorder.0.lock().unwrap();
        lines.clone()
    }

    #[test]
    fn repeated_lines_are_suppressed_and_counted() {
        let config = LogConfig { repeat: Period(Duration::from_hours(1)), ..LogConfig::default() };
        let lines =
            written(&config, |throttle| {
                for path in 0..1000 {
                    tracing::warn!(target: "peerage::edge::ingest", path, "fill failed");
                    tracing::error!(target: "h2::proto", path, "ping");
                }
                tracing::warn!(target: "peerage::edge::ingest", "another");
                let mut suppressed = throttle.take_suppressed();
                suppressed.sort_by(|a, b| a.text.cmp(&b.text));
                let [fill, ping] = [(Level::WARN, "fill failed"), (Level::ERROR, "ping")]
                    .map(|(level, text)| Suppressed { level, text: text.to_owned(), count: 999 });
                assert_eq!(suppressed, [fill, ping]);
                assert_eq!(throttle.take_suppressed(), []);
            });
        assert_eq!(lines, ["fill failed", "ping", "another"]);
    }

    #[test]
    fn lines_about_members_are_never_suppressed() {
        let lines = written(&LogConfig::default(), |_| {
            for _ in 0..3 {
                tracing::info!(target: "peerage::cluster::view", "peer is back");
            }
        });
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_period_of_zero_writes_every_line() {
        let config = LogConfig { repeat: Period(Duration::ZERO), ..LogConfig::default() };
        let lines = written(&config, |_| {
            for _ in 0..3 {
                tracing::warn!(target: "peerage::edge::ingest", "fill failed");
            }
        });
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn libraries_have_a_level_of_their_own() {
        for (level, libraries, expected) in [
            (LogLevel::Info, LogLevel::Error, &["own warn", "library error"][..]),
            (LogLevel::Debug, LogLevel::Off, &["own warn", "own debug"]),
            (LogLevel::Error, LogLevel::Warn, &["library warn", "library error"]),
        ] {
            let config = LogConfig { level, libraries, ..LogConfig::default() };
            let lines = written(&config, |_| {
                tracing::warn!(target: "peerage::edge", "own warn");
                tracing::debug!(target: "peerage::edge", "own debug");
                tracing::warn!(target: "h2::proto::ping_pong", "library warn");
                tracing::error!(target: "peerage_like", "library error");
            });
            assert_eq!(lines, expected, "{level:?}, {libraries:?}");
        }
    }
}
