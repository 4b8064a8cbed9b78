//! What becomes of spans and events.

use std::io::IsTerminal;
use std::sync::Mutex;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

use super::{Level, filter};
use crate::config::LogFormat;
use crate::config::settings::LogSettings;
use crate::fault::Fault;

/// Starts logging. Once per process.
pub(crate) fn start(settings: &LogSettings) -> Result<Level, Fault> {
    let (filter, handle) = reload::Layer::<_, Registry>::new(filter(&settings.level)?);
    let log = match settings.format {
        LogFormat::Text => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => fmt::layer()
            .with_writer(std::io::stderr)
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
    };
    Registry::default()
        .with(log.with_filter(filter))
        .try_init()
        .map_err(|error| Fault::new("cannot start the log", "in this process", error.to_string()))?;
    Ok(Level { filter: handle, text: Mutex::new(settings.level.clone()) })
}
