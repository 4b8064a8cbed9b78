//! The log: standard error, as text or JSON. Its level can be changed while the daemon runs. And traces, by OTLP.

mod layers;
#[cfg(feature = "otlp")]
mod traces;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::{EnvFilter, Registry, reload};

pub(crate) use self::layers::start;
use crate::fault::Fault;

/// The level of the log that runs.
pub(crate) struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
    text: Mutex<String>,
}

impl Level {
    /// Sets it. Whether it was another one before.
    pub(crate) fn set(&self, level: &str) -> Result<bool, Fault> {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if *text == level {
            return Ok(false);
        }
        self.filter.reload(filter(level)?).map_err(|error| {
            Fault::new("cannot change the log's level", "in this process", error.to_string())
        })?;
        level.clone_into(&mut text);
        Ok(true)
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Level").field(&self.text).finish()
    }
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
    // They log what they also return as an error, at every attempt. Whoever asks for them by name has them.
    let mut directives = level.clone();
    for (library, echo) in
        [("kube_client", "kube_client::client::builder"), ("rustls_platform", "rustls_platform_verifier")]
    {
        if !level.contains(library) {
            directives = format!("{echo}=off,{directives}");
        }
    }
    EnvFilter::builder().parse(directives).map_err(|_| bad(&level))
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
