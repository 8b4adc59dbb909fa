//! Logs: what goes to stderr, in which form, and what never does.
//!
//! `WXTOKEND_LOG` is the filter, `info` by default. Whatever it says, libraries get nothing through but
//! errors. The debug and trace lines of HTTP libraries hold URLs and headers, WeChat's URLs hold the
//! AppSecret and the token, and a filter must not be able to publish them. For the same reason the
//! records of the `log` crate, with which reqwest and rustls speak, are not collected at all. And what
//! h2 warns of is up to its peers, who would have a log of their own: a line for sixteen bytes.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use tracing::{Level, Metadata, Subscriber, warn};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, FilterFn, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
};

use super::pen::{Pen, Unwritten};
use crate::config::Log;

/// The variable that holds the filter.
const FILTER: &str = "WXTOKEND_LOG";

/// Starts to log to stderr, with the filter of `WXTOKEND_LOG`. The first call in a process counts. What
/// it returns is to be dropped when there is nothing more to say.
pub fn init(log: Log) -> Unwritten {
    let wanted = env::var_os(FILTER).unwrap_or_default();
    let wanted = wanted.to_string_lossy();
    let colors = io::stderr().is_terminal();
    let (filter, bad) = match parse(&wanted) {
        Ok(filter) => (filter, None),
        Err(bad) => (EnvFilter::new("info"), Some(bad)),
    };
    let (pen, unwritten) = Pen::new(io::stderr());
    let subscriber = build(log, filter, colors, move || pen.clone());
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(bad) = bad
    {
        warn!("`{FILTER}` is not understood, so `info` is used: {bad}");
    }
    unwritten
}

/// What [`init`] installs, writing to `writer`; a filter that is not understood counts as `info`.
pub fn subscriber<W>(log: Log, filter: &str, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = parse(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    build(log, filter, false, writer)
}

fn build<W>(log: Log, filter: EnvFilter, colors: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = match log {
        Log::Text => fmt::layer()
            .with_ansi(colors)
            .with_writer(OneLine(writer))
            .boxed(),
        Log::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(writer)
            .boxed(),
    };
    Registry::default().with(layer.with_filter(filter.and(quiet_libraries())))
}

/// Lets nothing but errors out of libraries; see the top of this file for why.
fn quiet_libraries() -> FilterFn<fn(&Metadata<'_>) -> bool> {
    filter_fn(|metadata| *metadata.level() == Level::ERROR || is_ours(metadata.target()))
}

fn is_ours(target: &str) -> bool {
    target == "wxtokend" || target.starts_with("wxtokend::")
}

/// Why a filter is not understood.
#[derive(Debug, thiserror::Error)]
enum BadFilter {
    #[error("`{0}` is no level: `off`, `error`, `warn`, `info`, `debug` or `trace`")]
    Level(String),
    #[error(transparent)]
    Syntax(#[from] tracing_subscriber::filter::ParseError),
}

/// A list like `info,wxtokend::upstream=debug`; empty means `info`.
fn parse(filter: &str) -> Result<EnvFilter, BadFilter> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    if filter.trim().is_empty() {
        return Ok(EnvFilter::new("info"));
    }
    for part in filter.split(',').map(str::trim) {
        // `EnvFilter` takes a lone word for a target and would let nothing else through: the log
        // of someone who writes `verbose` would be empty.
        let lone = part.bytes().all(|b| b.is_ascii_alphanumeric());
        if lone && !is_ours(part) && !LEVELS.contains(&part.to_lowercase().as_str()) {
            return Err(BadFilter::Level(part.into()));
        }
    }
    // Without regular expressions: nobody needs them here, and they cost memory.
    let builder = EnvFilter::builder().with_regex(false);
    Ok(builder.parse(filter)?)
}

/// Keeps each event on one line: text from elsewhere must not look like a line of ours.
struct OneLine<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLine(self.0.make_writer())
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> Self::Writer {
        OneLine(self.0.make_writer_for(metadata))
    }
}

impl<W: Write> Write for OneLine<W> {
    /// Is called once for each event, with all of it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line = Vec::with_capacity(event.len() + 1);
        for &byte in text {
            match byte {
                b'\n' => line.extend(b"\\n"),
                b'\r' => line.extend(b"\\r"),
                byte => line.push(byte),
            }
        }
        line.push(b'\n');
        self.0.write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, error, info, subscriber::with_default, trace};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: Log, filter: &str, speak: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        with_default(subscriber(log, filter, move || writer.clone()), speak);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_filter_opens_what_libraries_say_below_an_error() {
        let filters = [
            "trace",
            "debug",
            "reqwest=trace",
            "reqwest::x=trace",
            "info,hyper=debug,h2=trace",
            "off,reqwest=trace",
        ];
        for filter in filters {
            let log = logged(Log::Text, filter, || {
                trace!(target: "reqwest::x", "https://h?secret=CANARY");
                debug!(target: "reqwest::x", "https://h?secret=CANARY");
                trace!(target: "hyper::proto", "CANARY");
                trace!(target: "h2", "CANARY");
                warn!(target: "h2::proto", "CANARY: the peer decides how often");
                trace!(target: "wxtokend_not::x", "CANARY");
            });
            assert_eq!(log, "", "{filter}");
        }
    }

    #[test]
    fn the_filter_opens_our_own_lines_and_the_errors_of_libraries() {
        let log = logged(Log::Text, "trace", || {
            trace!(target: "wxtokend::x", "ours");
            error!(target: "rustls", "theirs");
        });
        assert!(log.contains("ours") && log.contains("theirs"), "{log}");
        let log = logged(Log::Text, "", || {
            info!(target: "wxtokend::x", "news");
            debug!(target: "wxtokend::x", "details");
        });
        assert!(log.contains("news") && !log.contains("details"), "{log}");
    }

    #[test]
    fn a_line_of_text_has_time_level_and_fields_and_no_colors() {
        let log = logged(Log::Text, "info", || {
            info!(target: "wxtokend::x", app = "shop", generation = 7, "token rotated");
        });
        let (time, rest) = log.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        let expected = " INFO wxtokend::x: token rotated app=\"shop\" generation=7\n";
        assert_eq!(rest, expected);
    }

    #[test]
    fn an_event_stays_on_its_line_whatever_it_quotes() {
        let log = logged(Log::Text, "info", || {
            let errmsg = "busy\r\n2026-11-22 INFO forged";
            info!(target: "wxtokend::x", %errmsg, "refused\nforged");
        });
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.ends_with('\n') && !log.contains('\r'), "{log}");
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_at_its_top() {
        let log = logged(Log::Json, "info", || {
            info!(target: "wxtokend::x", app = "shop", "one\ntwo");
            info!(target: "wxtokend::x", "three");
        });
        let lines: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["app"], "shop");
        assert_eq!(lines[0]["message"], "one\ntwo");
        assert_eq!(lines[0]["level"], "INFO");
        let time = lines[0]["timestamp"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    }

    #[test]
    fn a_filter_that_is_not_understood_is_an_error_and_counts_as_info() {
        // (filter, understood)
        let table = [
            ("", true),
            ("info", true),
            ("DEBUG", true),
            ("wxtokend", true),
            ("wxtokend=debug", true),
            ("warn,wxtokend::upstream=trace", true),
            ("verbose", false),
            ("info,verbose", false),
            ("wxtokend=loud", false),
            ("wxtokend=debug=trace", false),
        ];
        for (filter, understood) in table {
            assert_eq!(parse(filter).is_ok(), understood, "{filter}");
        }
        let log = logged(Log::Text, "verbose", || {
            info!(target: "wxtokend::x", "news");
            debug!(target: "wxtokend::x", "details");
        });
        assert!(log.contains("news") && !log.contains("details"), "{log}");
        let told = parse("verbose").unwrap_err().to_string();
        assert!(told.starts_with("`verbose` is no level"), "{told}");
    }
}
