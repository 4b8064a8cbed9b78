//! What is taken over while the daemon runs: on SIGHUP, and when the configuration file changes.
//!
//! The file is read again and checked as at the start; a broken one changes nothing. The log level, and labels,
//! annotations and taints of the nodes are taken over. For everything else that differs from what the daemon was
//! started with, the key is named and needs a restart. Certificates follow their files by themselves, and at once on
//! SIGHUP.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use vk_core::api::ClientCa;
use vk_core::api::tls::Serving;
use vk_core::config::Markings;

use crate::args::RunArgs;
use crate::config::document::Document;
use crate::config::keys::{Effect, effect_of};
use crate::config::load;
use crate::config::settings::Settings;
use crate::env::Environment;
use crate::fault::{Fault, Faults};
use crate::signals::Hangup;
use crate::telemetry::Level;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What of a node can be changed from here.
#[derive(Debug)]
pub(crate) struct Adjustable {
    /// The node's name.
    pub(crate) name: String,
    /// Its labels, annotations and taints.
    pub(crate) markings: watch::Sender<Markings>,
    /// Its serving certificate.
    pub(crate) serving: Serving,
    /// Who signs its callers' certificates, unless nobody does.
    pub(crate) client_ca: Option<Arc<ClientCa>>,
}

/// The configuration file, and what a change of it goes to.
#[derive(Debug)]
pub(crate) struct Reload {
    args: RunArgs,
    path: Option<PathBuf>,
    /// What the daemon was started with.
    started_with: Value,
    /// What was read last, good or not.
    text: String,
    level: Level,
}

impl Reload {
    /// Follows the file that flags or environment name.
    pub(crate) fn new(args: &RunArgs, environment: &Environment, level: Level) -> Result<Self, Faults> {
        let path = Settings::file(args, environment);
        let (mut text, mut started_with) = (String::new(), Value::Null);
        if let Some(path) = &path {
            text = load::read(path, "the configuration file")?;
            started_with = Document::parse(&text, &path.display().to_string())?.value().clone();
        }
        Ok(Self { args: args.clone(), path, started_with, text, level })
    }

    /// Takes changes over, until it is dropped.
    pub(crate) async fn run(mut self, mut hangup: Hangup, nodes: Vec<Adjustable>) -> Infallible {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: a signal that was not received stays pending, and the interval keeps its place.
            let told = tokio::select! {
                () = hangup.next() => true,
                _ = looks.tick() => false,
            };
            if told {
                tracing::info!("SIGHUP: reading the configuration and the certificates again");
                for node in &nodes {
                    node.serving.reload();
                    if let Some(ca) = &node.client_ca {
                        ca.reload();
                    }
                }
            }
            let Some(path) = self.path.clone() else {
                if told {
                    tracing::info!("there is no configuration file; flags and variables stay as they are");
                }
                continue;
            };
            if let Err(faults) = self.turn(&path, told, &nodes).await {
                for fault in faults.iter() {
                    tracing::error!("the configuration is not taken over: {fault}");
                }
            }
        }
    }

    async fn turn(&mut self, path: &Path, told: bool, nodes: &[Adjustable]) -> Result<(), Faults> {
        // A look that finds the file away for a moment, while an editor or the kubelet replaces it, is no news.
        let text = match (load::read_later(path).await, told) {
            (Ok(text), _) => text,
            (Err(_), false) => return Ok(()),
            (Err(fault), true) => return Err(fault.into()),
        };
        if !told && text == self.text {
            return Ok(());
        }
        self.text.clone_from(&text);
        let source = path.display().to_string();
        let document = Document::parse(&text, &source)?;
        let settings = Settings::read_text(&text, source.clone(), &self.args, Environment::of_process()?)?;
        for key in differences(&self.started_with, document.value()) {
            if effect_of(&key) == Effect::Restart {
                let fault =
                    Fault::new(format!("{key} has changed"), format!("in {source}"), "it needs a restart");
                tracing::warn!(key, "{fault}");
            }
        }
        if self.level.set(&settings.log.level)? {
            tracing::info!(level = settings.log.level, "the log level has changed");
        }
        for node in nodes {
            let Some(new) = settings.nodes.iter().find(|new| new.config.name == node.name) else { continue };
            let markings = new.config.markings();
            node.markings.send_if_modified(|present| {
                let differs = *present != markings;
                *present = markings;
                differs
            });
        }
        Ok(())
    }
}

/// The paths at which two files differ, as deep as they can be named.
fn differences(old: &Value, new: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    compare(old, new, "", &mut paths);
    paths
}

fn compare(old: &Value, new: &Value, path: &str, paths: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                // A section that comes or goes is all its keys.
                let side = |map: &serde_json::Map<String, Value>, other: Option<&Value>| {
                    map.get(key).cloned().unwrap_or_else(|| match other {
                        Some(Value::Object(_)) => Value::Object(serde_json::Map::new()),
                        _ => Value::Null,
                    })
                };
                compare(&side(before, after.get(key)), &side(after, before.get(key)), &below, paths);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                compare(before, after, &format!("{path}[{index}]"), paths);
            }
        }
        (before, after) if before == after => {}
        _ => paths.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_named_by_the_deepest_key_that_both_files_could_have() {
        let old = json!({
            "log": {"level": "info"},
            "nodes": [{"name": "a", "labels": {"x": "1"}}],
            "provider": {"mock": {"seed": 1}},
        });
        let table = [
            (json!({"log": {"level": "debug"}}), vec!["log.level", "nodes", "provider.mock.seed"]),
            (
                json!({
                    "log": {"level": "info"},
                    "nodes": [{"name": "a", "labels": {"x": "2", "y": "1"}, "port": 1}],
                    "provider": {"mock": {"seed": 1}},
                    "admin": {"listen": "127.0.0.1:1"},
                }),
                vec!["nodes[0].labels.x", "nodes[0].labels.y", "nodes[0].port", "admin.listen"],
            ),
        ];
        for (new, expected) in table {
            assert_eq!(differences(&old, &new), expected);
        }
        assert!(differences(&old, &old).is_empty());
    }
}
