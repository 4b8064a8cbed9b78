//! The provider contract over real processes. Root, namespaces and busybox are needed: `cargo xtask test real` has them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use vk_conformance::{Patience, Recipe, Subject, Suite, Work};
use vk_core::clock::Clock;
use vk_core::containers::PodRunner;
use vk_core::provider::{Provider, Result};
use vk_process::{ImageConfig, Network, ProcessBackend, ProcessConfig, busybox_folder, find_busybox};

const IMAGE: &str = "busybox:1";

/// Processes of this machine; they end with this one, so that a daemon's restart is a new runner over them.
#[derive(Debug)]
struct Processes {
    backend: Arc<ProcessBackend>,
    _folder: TempDir,
}

impl Processes {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        let busybox = find_busybox().expect("busybox on the PATH (Debian: busybox-static)");
        busybox_folder(&image, &busybox, &[]).expect("an image");
        let image =
            ImageConfig { folder: image, env: vec!["PATH=/bin".to_owned()], ..ImageConfig::default() };
        let config = ProcessConfig {
            not_for_production: true,
            folder: folder.path().join("state"),
            program: Path::new(env!("CARGO_BIN_EXE_vk-process-helper")).to_owned(),
            images: [(IMAGE.to_owned(), image)].into(),
            ..ProcessConfig::default()
        };
        let network = Network::new("vk-conform", "10.91.0.0/24").expect("a range");
        let backend = Arc::new(ProcessBackend::new(config, Arc::new(network)).expect("a backend"));
        Self { backend, _folder: folder }
    }
}

#[async_trait]
impl Subject for Processes {
    fn name(&self) -> String {
        "process".to_owned()
    }

    async fn connect(&self) -> Result<Arc<dyn Provider>> {
        Ok(Arc::new(PodRunner::new(Arc::clone(&self.backend), Clock::system())))
    }

    fn recipe(&self, _: &str, work: &Work) -> Option<Recipe> {
        if *work == Work::Serve {
            let mut recipe = Recipe::image(IMAGE).serving_http(8080);
            recipe.command = ["httpd", "-f", "-p", "8080"].map(str::to_owned).into();
            return Some(recipe);
        }
        Recipe::shell(IMAGE, work)
    }

    fn patience(&self) -> Patience {
        Patience { quiet: Duration::from_secs(1), ..Patience::local() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_provider_keeps_the_contract() {
    let suite = Suite::new(Arc::new(Processes::new()));
    let report = suite.run_until(std::future::pending(), |outcome| {
        eprintln!("{:6.1} s  {}", outcome.seconds, outcome.clause);
    });
    let report = report.await;
    assert!(report.passed(), "{}", report.to_text());
    eprintln!("{}", report.to_text());
}
