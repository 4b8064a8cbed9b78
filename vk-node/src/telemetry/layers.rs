//! What becomes of spans and events.

use std::io::IsTerminal;
use std::sync::Mutex;

#[cfg(feature = "otlp")]
use tracing::Level;
#[cfg(feature = "otlp")]
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

#[cfg(feature = "otlp")]
use super::traces;
use super::{Level as LogLevel, filter};
use crate::config::LogFormat;
use crate::config::settings::{LogSettings, TracingSettings};
use crate::fault::Fault;

/// What runs from the start on.
pub(crate) struct Telemetry {
    /// The log's level.
    pub(crate) level: LogLevel,
    /// Sends traces, once somebody runs it.
    #[cfg(feature = "otlp")]
    pub(crate) exporter: Option<traces::Exporter>,
}

/// Starts logging, and tracing if there is where to. Once per process.
pub(crate) fn start(settings: &LogSettings, tracing: Option<&TracingSettings>) -> Result<Telemetry, Fault> {
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
    #[cfg(feature = "otlp")]
    let (spans, exporter) = tracing.map(traces::start).unzip();
    #[cfg(feature = "otlp")]
    let spans = spans.map(|pods| {
        // Whatever the log shows: a story with holes is none.
        let ours = Targets::new().with_target("vk_core", Level::INFO).with_target("vk_node", Level::INFO);
        pods.with_filter(ours)
    });
    #[cfg(not(feature = "otlp"))]
    let spans = match tracing {
        None => None::<tracing_subscriber::layer::Identity>,
        Some(tracing) => {
            return Err(Fault::new(
                "this build exports no traces",
                format!("to {}", tracing.endpoint),
                "build it with the feature otlp, or leave tracing out",
            ));
        }
    };
    Registry::default()
        .with(log.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|error| Fault::new("cannot start the log", "in this process", error.to_string()))?;
    Ok(Telemetry {
        level: LogLevel { filter: handle, text: Mutex::new(settings.level.clone()) },
        #[cfg(feature = "otlp")]
        exporter,
    })
}
