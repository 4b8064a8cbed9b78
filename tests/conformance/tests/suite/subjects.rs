//! What is judged: the mock, decorators around it, and the runner over the mock's containers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use vk_conformance::journal::MAIN;
use vk_conformance::pods::{ADDED, INIT, OTHER};
use vk_conformance::{Patience, Recipe, Subject, Work};
use vk_core::clock::Clock;
use vk_core::containers::{Dial, PodRunner};
use vk_core::metrics::Metrics;
use vk_core::provider::{Delayed, Delays, Faults, Faulty, Limited, Limits, Provider, Result};
use vk_mock::{MockBackend, MockConfig, MockContainers, MockProvider, PREFIX};

/// Puts something around the mock's provider. The backend is there for bugs that do things behind its back.
pub(crate) type Wrap = Arc<dyn Fn(Arc<dyn Provider>, &Mock) -> Arc<dyn Provider> + Send + Sync>;

/// The mock, with something around it.
pub(crate) struct Mock {
    name: String,
    pub(crate) backend: MockBackend,
    /// The pods of somebody else.
    pub(crate) other: MockBackend,
    faults: Faults,
    wrap: Wrap,
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mock").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(crate) fn clock() -> Clock {
    Clock::virtual_from("2026-11-28T10:00:00Z".parse().expect("a timestamp"))
}

impl Mock {
    pub(crate) fn wrapped(name: &str, wrap: Wrap) -> Self {
        let backend = || MockBackend::new(MockConfig::default(), clock()).expect("a good configuration");
        let (backend, other) = (backend(), backend());
        let faults = backend.faults().clone();
        Self { name: name.to_owned(), backend, other, faults, wrap }
    }

    pub(crate) fn neighbours_provider(&self) -> Arc<dyn Provider> {
        Arc::new(MockProvider::new(self.other.clone(), "virtual-2"))
    }
}

pub(crate) fn mock() -> Mock {
    Mock::wrapped("mock", Arc::new(|inner, _| inner))
}

pub(crate) fn limited() -> Mock {
    Mock::wrapped("limited", Arc::new(|inner, _| Arc::new(Limited::new(inner, Limits::default()))))
}

pub(crate) fn delayed() -> Mock {
    let second = Duration::from_secs(1);
    let delays = Delays { node_info: second, create: second, delete: second, list: second };
    Mock::wrapped("delayed", Arc::new(move |inner, _| Arc::new(Delayed::new(inner, delays))))
}

/// What a node puts around every provider, its own and yours.
pub(crate) fn metered() -> Mock {
    let wrap: Wrap = Arc::new(|inner, _| vk_core::provider::metered(inner, Metrics::new("virtual-1")));
    Mock::wrapped("metered", wrap)
}

/// Its own switches stand for those of the backend.
pub(crate) fn faulty() -> Mock {
    let faults = Faults::default();
    let switches = faults.clone();
    let wrap: Wrap = Arc::new(move |inner, _| Arc::new(Faulty::new(inner, switches.clone())));
    Mock { faults, ..Mock::wrapped("faulty", wrap) }
}

#[async_trait]
impl Subject for Mock {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn connect(&self) -> Result<Arc<dyn Provider>> {
        let provider = Arc::new(MockProvider::new(self.backend.clone(), "virtual-1"));
        Ok((self.wrap)(provider, self))
    }

    fn recipe(&self, container: &str, work: &Work) -> Option<Recipe> {
        let script: Vec<(&str, String)> = match work {
            Work::Exit(code) => vec![("exit-code", code.to_string())],
            Work::Print(lines) => vec![("log", lines.join("\n"))],
            Work::Last(code) => vec![
                ("log", "once".to_owned()),
                ("run-duration", "2s".to_owned()),
                ("exit-code", code.to_string()),
            ],
            Work::Ticks(count) => {
                vec![("log-rate", "1".to_owned()), ("run-duration", format!("{count}s"))]
            }
            Work::Farewell { seconds, code } => vec![
                ("termination-latency", format!("{seconds}s")),
                ("termination-exit-code", code.to_string()),
            ],
            Work::Deaf => vec![("termination-latency", "never".to_owned())],
            _ => Vec::new(),
        };
        let mut recipe = Recipe::image("conformance:1");
        for (key, value) in script {
            recipe = recipe.annotated(format!("{PREFIX}{key}.{container}"), value);
        }
        recipe.stdin = *work == Work::Repeat;
        Some(if *work == Work::Serve { recipe.serving_http(8080) } else { recipe })
    }

    fn patience(&self) -> Patience {
        Patience::local()
    }

    fn faults(&self) -> Option<Faults> {
        Some(self.faults.clone())
    }

    async fn neighbour(&self) -> Option<Result<Arc<dyn Provider>>> {
        Some(Ok(self.neighbours_provider()))
    }

    fn spoil(&self, pod: &mut Pod) -> Option<String> {
        let field = "spec.hostPID".to_owned();
        let key = format!("{PREFIX}reject-create");
        pod.metadata.annotations.get_or_insert_default().insert(key, field.clone());
        Some(field)
    }
}

/// The runner over containers in memory.
#[derive(Debug)]
pub(crate) struct Runner {
    containers: MockContainers,
    other: MockContainers,
    clock: Clock,
}

impl Runner {
    pub(crate) fn new() -> Self {
        let clock = clock();
        let containers = || MockContainers::new(clock.clone()).with_image("tool:1");
        Self { containers: containers(), other: containers(), clock: clock.clone() }
    }

    fn over(&self, containers: &MockContainers) -> Arc<dyn Provider> {
        Arc::new(PodRunner::dialing(Arc::new(containers.clone()), self.clock.clone(), Dial::PortForward))
    }
}

#[async_trait]
impl Subject for Runner {
    fn name(&self) -> String {
        "runner".to_owned()
    }

    async fn connect(&self) -> Result<Arc<dyn Provider>> {
        Ok(self.over(&self.containers))
    }

    fn recipe(&self, container: &str, work: &Work) -> Option<Recipe> {
        assert!([MAIN, INIT, OTHER, ADDED].contains(&container), "{container}");
        if *work == Work::Serve {
            let mut recipe = Recipe::image("tool:1").serving_http(8080);
            recipe.command = ["tool", "serve"].map(str::to_owned).into();
            return Some(recipe);
        }
        Recipe::shell("tool:1", work)
    }

    fn patience(&self) -> Patience {
        Patience::local()
    }

    async fn neighbour(&self) -> Option<Result<Arc<dyn Provider>>> {
        Some(Ok(self.over(&self.other)))
    }
}
