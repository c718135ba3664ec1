//! The program's log on standard error: which lines are written, and how often.
//!
//! Clients, origins and strangers can cause most lines, as often as they like. One line
//! of a kind is written in each `log.repeat`; the others are counted, and the count is
//! written once the time is over.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::config::{LogConfig, LogLevel};

/// The module whose lines `log.level` is for; others are libraries'.
const OWN: &str = "peerage";
/// Modules whose lines neither a client nor an origin can cause: an operator's signals,
/// and what becomes of members. Each line of theirs is written.
const UNLIMITED: [&str; 6] = [
    "peerage::cli",
    "peerage::cluster::view",
    "peerage::cluster::discovery",
    "peerage::edge::probe",
    "peerage::edge::warm",
    "peerage::server::run",
];
/// The most of a line's text that stands with a count, in characters.
const TEXT: usize = 100;

/// The filter before the log.
#[derive(Clone)]
pub(super) struct Throttle(Arc<Shared>);

struct Shared {
    own: LevelFilter,
    libraries: LevelFilter,
    period: Duration,
    /// By the place in the source that writes the line: as many as the program has.
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

/// Lines that one place in the source writes.
struct Kind {
    level: Level,
    /// The text of the last line that was written.
    text: String,
    written: Instant,
    suppressed: u64,
}

/// Lines of one kind that were not written.
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

    /// Writes how many lines were suppressed, once in each period.
    pub(super) async fn report_always(self) {
        if self.0.period.is_zero() {
            return;
        }
        loop {
            tokio::time::sleep(self.0.period).await;
            self.report();
        }
    }

    /// Writes how many lines were suppressed since the last report.
    pub(super) fn report(&self) {
        // The lock is free again when the lines are written.
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

    /// Returns true if the line is to be written at `now`; else it is counted.
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

/// The beginning of a line's text.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(TEXT).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::config::Period;

    /// Keeps the target and text of each line.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut text = Text::default();
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }

    fn written(config: &LogConfig, lines: impl FnOnce(&Throttle)) -> Vec<String> {
        let (throttle, kept) = (Throttle::new(config), Kept::default());
        let subscriber = tracing_subscriber::registry().with(kept.clone()).with(throttle.clone());
        tracing::subscriber::with_default(subscriber, || lines(&throttle));
        let kept = kept.0.lock().unwrap();
        kept.clone()
    }

    #[test]
    fn one_line_of_a_kind_is_written_in_a_period_and_the_others_are_counted() {
        let config = LogConfig { repeat: Period(Duration::from_hours(1)), ..LogConfig::default() };
        let lines =
            written(&config, |throttle| {
                for path in 0..1000 {
                    tracing::warn!(target: "peerage::edge::intake", path, "fill failed");
                    tracing::error!(target: "h2::proto", path, "ping");
                }
                tracing::warn!(target: "peerage::edge::intake", "another");
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
    fn lines_of_operators_and_members_are_all_written() {
        let lines = written(&LogConfig::default(), |_| {
            for _ in 0..3 {
                tracing::info!(target: "peerage::cluster::view", "the peer is back");
            }
        });
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_period_of_zero_writes_every_line() {
        let config = LogConfig { repeat: Period(Duration::ZERO), ..LogConfig::default() };
        let lines = written(&config, |_| {
            for _ in 0..3 {
                tracing::warn!(target: "peerage::edge::intake", "fill failed");
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
