//! Diagnostics by `tracing`: to the program's own subscriber, or to stderr if DDP_LOG asks for them.
//!
//! Spans: `run` (a [`Context`](crate::Context)'s life), in it `epoch` and `step` (each until it is reported), and `snapshot`
//! (the write in the background). Without a subscriber they cost a comparison each.

use std::fmt;

use ddp_contract::env;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{self, Format, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::say::say;

/// Writes diagnostics of `rank` to stderr, if DDP_LOG is set and the program has no subscriber. Called when a
/// [`Context`](crate::Context) is made: by then a program has installed its own.
pub(crate) fn start(rank: usize) {
    let Some(filter) = text(env::LOG) else { return };
    if tracing::dispatcher::has_been_set() {
        return;
    }
    let filter = match EnvFilter::try_new(&filter) {
        Ok(filter) => filter,
        Err(err) => {
            let example = "such as debug, or ddp_runtime=trace";
            say(format_args!(
                "warning: invalid {} `{}`: {err}; expected a filter {example}",
                env::LOG,
                filter.escape_debug()
            ));
            return;
        }
    };
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let installed = match text(env::LOG_FORMAT).as_deref() {
        Some("json") => {
            let inner = format::format().json().with_current_span(true);
            registry.with(lines.fmt_fields(JsonFields::new()).event_format(Json { rank, inner })).try_init()
        }
        other => {
            if let Some(other) = other.filter(|other| *other != "text") {
                say(format_args!(
                    "warning: invalid {} `{}`: expected text or json",
                    env::LOG_FORMAT,
                    other.escape_debug()
                ));
            }
            // Colors would be lost in a pipe to the launcher.
            let inner = format::format().with_ansi(false);
            registry.with(lines.with_ansi(false).event_format(Text { rank, inner })).try_init()
        }
    };
    drop(installed); // an error: another thread of the program was first
}

fn text(name: &str) -> Option<String> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
}

/// Lines that begin with the rank.
struct Text {
    rank: usize,
    inner: Format,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "rank={} ", self.rank)?;
        self.inner.format_event(context, writer, event)
    }
}

/// JSON objects with a field for the rank.
struct Json {
    rank: usize,
    inner: Format<format::Json>,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut object = String::new();
        self.inner.format_event(context, Writer::new(&mut object), event)?;
        match object.strip_prefix('{') {
            Some(fields) => write!(writer, "{{\"rank\":{},{fields}", self.rank),
            None => writer.write_str(&object),
        }
    }
}
