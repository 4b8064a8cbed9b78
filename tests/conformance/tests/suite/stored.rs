//! The mock whose pods are in a file: with the daemon ends the backend, and the next one has nothing but that file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use tempfile::TempDir;
use vk_conformance::{Errand, Patience, Recipe, Subject, Work};
use vk_core::clock::Clock;
use vk_core::provider::{Error, Faults, Provider, Result};
use vk_mock::{MockBackend, MockConfig, MockProvider};

use crate::subjects::{Mock, clock, mock};

/// See the module.
#[derive(Debug)]
pub(crate) struct Stored {
    directory: TempDir,
    clock: Clock,
    backend: Mutex<Option<MockBackend>>,
    /// Knows the recipes, and has a backend for the neighbour.
    mock: Mock,
}

impl Stored {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the state file");
        Self { directory, clock: clock(), backend: Mutex::default(), mock: mock() }
    }

    fn backend(&self) -> MutexGuard<'_, Option<MockBackend>> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Subject for Stored {
    fn name(&self) -> String {
        "mock with a state file".to_owned()
    }

    /// The backend before has to be gone first: it keeps others off its file.
    async fn connect(&self) -> Result<Arc<dyn Provider>> {
        self.backend().take();
        let mut config = MockConfig::default();
        config.state_file = Some(self.directory.path().join("pods.jsonl"));
        for _ in 0..100 {
            if let Ok(backend) = MockBackend::new(config.clone(), self.clock.clone()) {
                *self.backend() = Some(backend.clone());
                return Ok(Arc::new(MockProvider::new(backend, "virtual-1")));
            }
            // Whoever was talking to it has to hear first that it is over.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(Error::unexpected("the state file cannot be opened again"))
    }

    fn recipe(&self, container: &str, work: &Work) -> Option<Recipe> {
        self.mock.recipe(container, work)
    }

    fn errand(&self, errand: &Errand) -> Option<Vec<String>> {
        self.mock.errand(errand)
    }

    fn patience(&self) -> Patience {
        self.mock.patience()
    }

    fn faults(&self) -> Option<Faults> {
        self.backend().as_ref().map(|backend| backend.faults().clone())
    }

    async fn neighbour(&self) -> Option<Result<Arc<dyn Provider>>> {
        self.mock.neighbour().await
    }

    fn spoil(&self, pod: &mut Pod) -> Option<String> {
        self.mock.spoil(pod)
    }
}
