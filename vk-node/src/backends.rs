//! The backends this build has: the only place with feature flags for them.

use std::sync::Arc;

use vk_core::provider::Provider;

use crate::config::settings::{NodeSettings, Settings};
use crate::fault::{Fault, Faults, nearest};

/// Their names, as `provider:` and `--provider` take them.
pub(crate) const NAMES: &[&str] = &[
    #[cfg(feature = "mock")]
    "mock",
    #[cfg(feature = "process")]
    "process",
];

/// A backend for each node, in their order: before a cluster is asked for anything, as what is wrong with them is
/// wrong with the settings.
pub(crate) fn all(settings: &Settings) -> Result<Vec<Arc<dyn Provider>>, Faults> {
    let mut faults = Faults::default();
    let built = settings.nodes.iter().filter_map(|node| faults.keep(build(node, &settings.source))).collect();
    faults.or(built)
}

/// Makes a node's backend. `source` is where its settings come from.
pub(crate) fn build(node: &NodeSettings, source: &str) -> Result<Arc<dyn Provider>, Fault> {
    match node.provider.name.as_str() {
        #[cfg(feature = "mock")]
        "mock" => mock::build(node, source),
        #[cfg(feature = "process")]
        "process" => process::build(node, source),
        name => {
            let built_in = if NAMES.is_empty() { "none".to_owned() } else { NAMES.join(", ") };
            let remedy = match nearest(name, NAMES.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("this build has {built_in}"),
            };
            Err(Fault::new(format!("unknown provider {name:?}"), format!("in {source} (provider)"), remedy))
        }
    }
}

/// Connects to a backend, as often as it is called: what each start of a daemon does.
#[cfg(feature = "conformance")]
pub(crate) type Connect = Box<dyn Fn() -> Result<Arc<dyn Provider>, Fault> + Send + Sync>;

/// Ways to a node's backend, which lives on between two connections. `source` is where its settings come from.
#[cfg(feature = "conformance")]
pub(crate) fn connector(node: &NodeSettings, source: &str) -> Result<Connect, Fault> {
    match node.provider.name.as_str() {
        #[cfg(feature = "mock")]
        "mock" => mock::connector(node, source),
        _ => {
            // What is wrong with the settings is said now.
            drop(build(node, source)?);
            let (node, source) = (node.clone(), source.to_owned());
            Ok(Box::new(move || build(&node, &source)))
        }
    }
}

/// A backend of that name with the defaults, to say what it can do: it runs nothing.
pub(crate) fn example(node: &NodeSettings) -> Result<Arc<dyn Provider>, Fault> {
    match node.provider.name.as_str() {
        #[cfg(feature = "process")]
        "process" => process::example(),
        _ => build(node, "the defaults"),
    }
}

#[cfg(feature = "process")]
mod process {
    use vk_core::clock::Clock;
    use vk_core::containers::PodRunner;
    use vk_process::{ConfigError, Network, ProcessBackend, ProcessConfig};

    use super::{Arc, Fault, NodeSettings, Provider};
    use crate::config::load;

    pub(super) fn build(node: &NodeSettings, source: &str) -> Result<Arc<dyn Provider>, Fault> {
        let (config, place): (ProcessConfig, String) = match &node.provider_file {
            None => (
                load::parse_section(
                    node.provider.settings.clone(),
                    &node.provider.lines,
                    source,
                    &node.provider_path,
                )?,
                node.provider.lines.place(&node.provider_path, source),
            ),
            Some(path) => {
                let (text, source) =
                    (load::read(path, "the provider's configuration")?, path.display().to_string());
                (load::parse(&text, &source)?, format!("in {source}"))
            }
        };
        start(config).map_err(|error| Fault::new(format!("bad setting {:?}", error.key), place, error.reason))
    }

    pub(super) fn example() -> Result<Arc<dyn Provider>, Fault> {
        let config = ProcessConfig {
            not_for_production: true,
            folder: "/var/lib/vk-process".into(),
            ..ProcessConfig::default()
        };
        start(config).map_err(|error| Fault::new("the process provider cannot run", "here", error.reason))
    }

    fn start(config: ProcessConfig) -> Result<Arc<dyn Provider>, ConfigError> {
        let network = Network::new(&config.bridge, &config.pod_range)?;
        let backend = ProcessBackend::new(config, Arc::new(network))?;
        Ok(Arc::new(PodRunner::new(Arc::new(backend), Clock::system())))
    }
}

#[cfg(feature = "mock")]
mod mock {
    use vk_core::clock::Clock;
    use vk_mock::{ConfigError, MockConfig, MockProvider};

    use super::{Arc, Fault, NodeSettings, Provider};
    use crate::config::load;

    pub(super) fn build(node: &NodeSettings, source: &str) -> Result<Arc<dyn Provider>, Fault> {
        start(node, source).map(|provider| Arc::new(provider) as Arc<dyn Provider>)
    }

    /// Its backend is in this process, and is kept.
    #[cfg(feature = "conformance")]
    pub(super) fn connector(node: &NodeSettings, source: &str) -> Result<super::Connect, Fault> {
        let backend = start(node, source)?.backend().clone();
        let name = node.config.name.clone();
        Ok(Box::new(move || Ok(Arc::new(MockProvider::new(backend.clone(), &name)))))
    }

    fn start(node: &NodeSettings, source: &str) -> Result<MockProvider, Fault> {
        let (mut config, place) = read(node, source)?;
        if let Some(os) = &node.os {
            config.operating_system.clone_from(os);
        }
        config.validate().map_err(|error| explain(&error, &place))?;
        MockProvider::start(config, &node.config.name, Clock::system())
            .map_err(|error| explain(&error, &place))
    }

    /// The settings, and where they stand.
    fn read(node: &NodeSettings, source: &str) -> Result<(MockConfig, String), Fault> {
        let Some(path) = &node.provider_file else {
            let place = node.provider.lines.place(&node.provider_path, source);
            return Ok((
                load::parse_section(
                    node.provider.settings.clone(),
                    &node.provider.lines,
                    source,
                    &node.provider_path,
                )?,
                place,
            ));
        };
        let text = load::read(path, "the provider's configuration")?;
        let source = path.display().to_string();
        let place = format!("in {source}");
        // Go's file is JSON, node names with their capacity; ours is YAML.
        let config = if text.trim_start().starts_with('{') {
            MockConfig::from_go_json(&text).map_err(|error| explain(&error, &place))?
        } else {
            load::parse(&text, &source)?
        };
        Ok((config, place))
    }

    fn explain(error: &ConfigError, place: &str) -> Fault {
        Fault::new(format!("bad setting {:?}", error.key), place, error.reason.clone())
    }
}

#[cfg(all(test, feature = "mock"))]
mod tests {
    use crate::args::{Parsed, parse};
    use crate::config::File;
    use crate::config::document::Document;
    use crate::config::settings::Settings;
    use crate::env::Environment;
    use crate::fault::Faults;

    fn build(yaml: &str, words: &[&str]) -> Result<(), Faults> {
        let file = File::of(&Document::parse(yaml, "vk.yaml")?)?;
        let line = std::iter::once("vk-node").chain(words.iter().copied()).map(str::to_owned);
        let Parsed::Run(cli, _) = parse(line)? else { panic!("{words:?} is help") };
        let settings = Settings::merge(file, "vk.yaml".to_owned(), cli.run.flags, Environment::default())?;
        Ok(super::build(&settings.nodes[0], &settings.source).map(|_| ())?)
    }

    #[tokio::test]
    async fn a_backend_reads_its_section_and_complains_with_its_path() {
        assert_eq!(build("provider: mock", &[]), Ok(()));
        assert_eq!(build("provider: {mock: {capacity: {cpu: 4}, seed: 3}}", &[]), Ok(()));
        let table = [
            ("provider: mokc", "unknown provider \"mokc\" in vk.yaml (provider): did you mean \"mock\"?"),
            (
                "provider: {mock: {capactiy: {cpu: 4}}}",
                "unknown key \"capactiy\" in vk.yaml:1 (provider.mock.capactiy): did you mean \"capacity\"?",
            ),
            (
                "provider: {mock: {operatingSystem: plan9}}",
                "bad setting \"operatingSystem\" in vk.yaml:1 (provider.mock): \"plan9\" is neither linux nor windows",
            ),
        ];
        for (yaml, line) in table {
            assert_eq!(build(yaml, &[]).unwrap_err().to_string(), line);
        }
    }

    #[cfg(feature = "process")]
    #[tokio::test]
    async fn the_process_provider_wants_it_said_that_it_is_not_for_production() {
        let line = build("provider: process", &[]).unwrap_err().to_string();
        assert!(line.contains("notForProduction: true") && line.contains("without isolation"), "{line}");
    }

    #[tokio::test]
    async fn the_go_mocks_json_is_read_as_a_provider_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mock.json");
        let flag = format!("--provider-config={}", path.display());
        std::fs::write(&path, r#"{"virtual-kubelet": {"cpu": "2", "memory": "32Gi", "pods": "128"}}"#)
            .unwrap();
        assert_eq!(build("", &["--provider=mock", &flag]), Ok(()));
        std::fs::write(&path, r#"{"virtual-kubelet": {"cpu": "two"}}"#).unwrap();
        let line = build("", &["--provider=mock", &flag]).unwrap_err().to_string();
        assert!(line.contains(&path.display().to_string()) && line.contains("two"), "{line}");
    }
}
