//! The log: standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::config::settings::LogSettings;
use crate::fault::Fault;

/// Starts logging. Once per process.
pub(crate) fn start(settings: &LogSettings) -> Result<(), Fault> {
    let filter = filter(&settings.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
    started.map_err(|error| Fault::new("cannot start the log", "in this process", error.to_string()))
}

/// The level, or directives.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, Fault> {
    // logrus' names, as Go Virtual Kubelet's --log-level takes them.
    let level = match level.to_lowercase().as_str() {
        "warning" => "warn".to_owned(),
        "fatal" | "panic" => "error".to_owned(),
        _ => level.to_owned(),
    };
    let known = ["off", "error", "warn", "info", "debug", "trace"];
    let plain = level.chars().all(|c| c.is_ascii_alphabetic());
    if plain && !known.contains(&level.to_lowercase().as_str()) {
        return Err(bad(&level));
    }
    EnvFilter::builder().parse(&level).map_err(|_| bad(&level))
}

fn bad(level: &str) -> Fault {
    Fault::new(
        format!("bad log level {level:?}"),
        "in the settings (log.level)",
        "it is error, warn, info, debug, trace, or directives such as info,vk_core=debug",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_name_or_directives_and_never_a_typing_error() {
        for good in ["info", "DEBUG", "warning", "info,vk_core=debug", "vk_core::pods=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "info,vk_core=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
