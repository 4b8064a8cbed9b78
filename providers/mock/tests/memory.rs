//! What 10,000 pods cost. A program of its own, so that nothing else moves its memory.
#![cfg(target_os = "linux")]

use std::fs;

use serde_json::json;
use tokio::runtime::Handle;
use vk_core::clock::Clock;
use vk_core::provider::{Provider, ResolvedPod};
use vk_mock::{MockBackend, MockConfig, MockProvider};

const PODS: usize = 10_000;
/// What an idle pod may cost, everything included.
const LIMIT: usize = 1536;

/// Bytes of memory that this process has.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

fn pod(n: usize) -> ResolvedPod {
    let object = json!({
        "metadata": {
            "namespace": "load",
            "name": format!("web-7d4b9c6f58-{n:05}"),
            "uid": format!("5f0c2a34-9d1e-4c58-8a77-{n:012}"),
            "labels": {"app": "web", "pod-template-hash": "7d4b9c6f58"},
        },
        "spec": {
            "nodeName": "virtual-1",
            "containers": [{
                "name": "web",
                "image": "registry.test/team/web:1.2.3",
                "command": ["serve", "--port=8080"],
                "env": [{"name": "MODE", "value": "production"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            }],
        },
    });
    ResolvedPod::literal(serde_json::from_value(object).expect("a pod")).expect("with a UID")
}

#[tokio::test]
async fn an_idle_pod_costs_a_lean_record_and_neither_task_nor_timer() {
    let backend = MockBackend::new(MockConfig::default(), Clock::system()).unwrap();
    let provider = MockProvider::new(backend.clone(), "virtual-1");
    // The first ones pay for what is made once.
    for n in 0..100 {
        provider.create_pod(&pod(n)).await.unwrap();
    }
    let (memory, tasks) = (resident(), Handle::current().metrics().num_alive_tasks());
    for n in 100..PODS + 100 {
        provider.create_pod(&pod(n)).await.unwrap();
    }
    let each = resident().saturating_sub(memory) / PODS;
    eprintln!("{each} bytes a pod");
    assert!(each > 100, "{each} bytes a pod cannot be right");
    assert!(each <= LIMIT, "{each} bytes a pod");
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks, "tasks");
    assert_eq!(backend.running().len(), PODS + 100);
    assert!(backend.has_nothing_due(), "timers");
}
