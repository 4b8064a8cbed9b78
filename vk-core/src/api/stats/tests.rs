//! Both documents from one measurement, read by hands that did not write them.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::super::testing::{self, Backend, get, running, start};
use super::*;
use crate::provider::{
    ContainerUsage, CpuUsage, FilesystemUsage, MemoryUsage, NetworkUsage, NodeUsage, PodRef,
};

fn container(name: &str, nanos: u64, bytes: u64) -> ContainerUsage {
    let time = start();
    let cpu = CpuUsage::counted(time, nanos);
    ContainerUsage::new(name, Some(time), Some(cpu), Some(MemoryUsage::working_set(time, bytes)))
}

fn three(name: &str) -> PodUsage {
    let containers = vec![container("a", 1_500_000_000, 10), container("b", 0, 0), container("c", 7, 30)];
    PodUsage::new(PodRef::new("default", name, format!("uid-{name}")), Some(start()), containers)
}

fn api(figures: impl Fn() -> crate::provider::Result<Usage> + Send + Sync + 'static) -> KubeletApi {
    let backend = Backend { figures: Some(Box::new(figures)), ..Backend::default() };
    testing::api(backend, vec![running("web"), running("db")])
}

#[tokio::test(start_paused = true)]
async fn the_summary_has_node_pods_and_containers_and_nothing_that_is_unknown() {
    let api = api(|| {
        let mut unknown = three("db");
        unknown.containers = vec![ContainerUsage::new("a", None, None, None)];
        unknown.started_at = None;
        Ok(Usage::of_pods(vec![three("web"), unknown]))
    });
    for path in ["/stats/summary", "/stats/summary/", "/stats/summary?only_cpu_and_memory=true"] {
        let answer = get(&api, path).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some("application/json")));
        let time = "2026-11-23T10:00:00Z";
        let figures = |nanos: u64, bytes: u64| {
            let cpu = json!({ "time": time, "usageCoreNanoSeconds": nanos });
            (cpu, json!({ "time": time, "workingSetBytes": bytes }))
        };
        let entry = |name: &str, nanos, bytes| {
            let (cpu, memory) = figures(nanos, bytes);
            json!({ "name": name, "startTime": time, "cpu": cpu, "memory": memory })
        };
        let (cpu, memory) = figures(1_500_000_007, 40);
        let expected = json!({
            "node": { "nodeName": "node-1", "startTime": time, "cpu": cpu, "memory": memory },
            "pods": [
                {
                    "podRef": { "name": "db", "namespace": "default", "uid": "uid-db" },
                    // From the container's status: the provider did not say.
                    "containers": [{ "name": "a", "startTime": "2026-11-23T09:00:00Z" }],
                },
                {
                    "podRef": { "name": "web", "namespace": "default", "uid": "uid-web" },
                    "startTime": time,
                    "containers": [entry("a", 1_500_000_000, 10), entry("b", 0, 0), entry("c", 7, 30)],
                    "cpu": cpu,
                    "memory": memory,
                },
            ],
        });
        assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn only_processor_and_memory_are_shown_when_asked_so() {
    let api = api(|| {
        let mut pod = three("web");
        pod.network = Some(NetworkUsage::counted(start(), "eth0", 7, 8));
        pod.ephemeral_storage = Some(FilesystemUsage::used(start(), 9));
        pod.containers[0].root_filesystem = Some(FilesystemUsage::used(start(), 5));
        let mut usage = Usage::of_pods(vec![pod]);
        usage.node = Some(NodeUsage {
            network: Some(NetworkUsage::counted(start(), "eth0", 70, 80)),
            filesystem: Some(FilesystemUsage::used(start(), 90)),
            ..NodeUsage::default()
        });
        Ok(usage)
    });
    let time = "2026-11-23T10:00:00Z";
    let summary = async |path: &str| serde_json::from_str::<Value>(&get(&api, path).await.body).unwrap();
    let all = summary("/stats/summary").await;
    let interface = json!({ "name": "eth0", "rxBytes": 7, "txBytes": 8 });
    let network =
        json!({ "time": time, "name": "eth0", "rxBytes": 7, "txBytes": 8, "interfaces": [interface] });
    assert_eq!(all["pods"][0]["network"], network);
    assert_eq!(all["pods"][0]["ephemeral-storage"], json!({ "time": time, "usedBytes": 9 }));
    assert_eq!(all["pods"][0]["containers"][0]["rootfs"], json!({ "time": time, "usedBytes": 5 }));
    assert_eq!(all["node"]["fs"], json!({ "time": time, "usedBytes": 90 }));
    assert_eq!(all["node"]["network"]["txBytes"], 80);
    let some = summary("/stats/summary?only_cpu_and_memory=true").await.to_string();
    assert!(some.contains("workingSetBytes"));
    for absent in ["network", "ephemeral-storage", "rootfs", "fs"] {
        assert!(!some.contains(&format!("\"{absent}\"")), "{absent}: {some}");
    }
    // As the kubelet reads it.
    for other in ["false", "1", "True", "", "true&only_cpu_and_memory=true"] {
        let path = format!("/stats/summary?only_cpu_and_memory={other}");
        assert_eq!(summary(&path).await, all, "{other}");
    }
    let garbage = get(&api, "/stats/summary?only_cpu_and_memory=true&x=%zz").await;
    garbage.is(500, "Internal Error: parse form failed: the query is not well formed");
}

#[tokio::test(start_paused = true)]
async fn cadvisor_metrics_have_its_labels_and_what_is_known() {
    let api = api(|| {
        let mut pod = three("web");
        pod.network = Some(NetworkUsage::counted(start(), "eth0", 7, 8));
        Ok(Usage::of_pods(vec![pod]))
    });
    let answer = get(&api, "/metrics/cadvisor").await;
    let families = read(&answer.body);
    let labels = |family: &str, index: usize| {
        let labels = families[family][index].labels.iter();
        labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let container =
        "container=a cpu=total id=/uid-web/a image=a:1 name=web_default_a namespace=default pod=web";
    assert_eq!(labels("container_cpu_usage_seconds_total", 1), container);
    let whole = "container= cpu=total id=/uid-web image= name= namespace=default pod=web";
    assert_eq!(labels("container_cpu_usage_seconds_total", 0), whole);
    let network = "container= id=/uid-web image= interface=eth0 name= namespace=default pod=web";
    assert_eq!(labels("container_network_receive_bytes_total", 0), network);
    assert_eq!(families["container_network_transmit_bytes_total"][0].value, "8");
    assert_eq!(families["container_memory_working_set_bytes"].len(), 4);
    assert_eq!(families["container_scrape_error"][0].value, "0");
    assert!(!families.contains_key("container_memory_rss"), "unknown, hence absent");
}

/// A sample, as an independent reader of the text format finds it.
struct Sample {
    labels: Vec<(String, String)>,
    value: String,
    time: Option<i64>,
}

/// Reads the text format strictly: a family's samples stand together after its HELP and TYPE, no series comes
/// twice.
fn read(text: &str) -> BTreeMap<String, Vec<Sample>> {
    let mut families: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    let mut current = String::new();
    let mut series = HashSet::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split_once(' ').unwrap().0.to_owned();
            assert!(families.insert(current.clone(), Vec::new()).is_none(), "{current} twice");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        assert_eq!(line[..end], current, "{line}");
        let mut rest = &line[end..];
        let mut labels = Vec::new();
        while rest.starts_with(['{', ',']) {
            let (name, after) = rest[1..].split_once("=\"").unwrap();
            let mut value = String::new();
            let mut chars = after.char_indices();
            let close = loop {
                match chars.next().unwrap() {
                    (index, '"') => break index,
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        escaped => escaped,
                    }),
                    (_, c) => value.push(c),
                }
            };
            labels.push((name.to_owned(), value));
            rest = &after[close + 1..];
        }
        rest = rest.strip_prefix('}').unwrap_or(rest);
        assert!(series.insert((current.clone(), labels.clone())), "{line} twice");
        let mut fields = rest.split_ascii_whitespace();
        let value = fields.next().unwrap().to_owned();
        assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        let time = fields.next().map(|time| time.parse().unwrap());
        assert!(fields.next().is_none(), "{line}");
        families.get_mut(&current).unwrap().push(Sample { labels, value, time });
    }
    families
}

async fn scrape(api: &KubeletApi) -> (String, BTreeMap<String, Vec<Sample>>) {
    let answer = get(api, "/metrics/resource").await;
    assert_eq!(answer.status, 200);
    let plain = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    assert_eq!(answer.header("content-type"), Some(plain));
    assert!(answer.header("process-start-time-unix").unwrap().parse::<i64>().unwrap() > 1_600_000_000);
    let families = read(&answer.body);
    (answer.body, families)
}

#[tokio::test(start_paused = true)]
async fn resource_metrics_are_the_kubelets_families_with_the_pod_as_second_label() {
    let api = api(|| Ok(Usage::of_pods(vec![three("web"), three("db")])));
    let (_, families) = scrape(&api).await;
    assert_eq!(
        families.keys().collect::<Vec<_>>(),
        [
            "container_cpu_usage_seconds_total",
            "container_memory_working_set_bytes",
            "container_start_time_seconds",
            "node_cpu_usage_seconds_total",
            "node_memory_working_set_bytes",
            "pod_cpu_usage_seconds_total",
            "pod_memory_working_set_bytes",
            "resource_scrape_error",
        ]
    );
    for (name, samples) in &families {
        let expected: &[&str] = match name.split('_').next().unwrap() {
            "container" => &["container", "pod", "namespace"],
            "pod" => &["namespace", "pod"],
            _ => &[],
        };
        assert!(!samples.is_empty(), "{name}");
        for sample in samples {
            let names: Vec<_> = sample.labels.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, expected, "{name}");
            let timed = !["container_start_time_seconds", "resource_scrape_error"].contains(&name.as_str());
            assert_eq!(sample.time, timed.then(|| start().as_millisecond()), "{name}");
        }
    }
    let of_web = |name: &str| {
        let named = families[name].iter().filter(|sample| sample.labels[1].1 == "web");
        named.map(|sample| sample.value.as_str()).collect::<Vec<_>>()
    };
    // Never zero: metrics-server would drop the pod.
    assert_eq!(of_web("container_cpu_usage_seconds_total"), ["1.5", "0.000000001", "0.000000007"]);
    assert_eq!(of_web("container_memory_working_set_bytes"), ["10", "1", "30"]);
    assert_eq!(of_web("pod_memory_working_set_bytes"), ["40"]);
    assert_eq!(families["node_memory_working_set_bytes"][0].value, "80");
    assert_eq!(families["resource_scrape_error"][0].value, "0");
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_has_figures_and_no_pods() {
    let (_, families) = scrape(&api(|| Ok(Usage::default()))).await;
    assert_eq!(families["node_cpu_usage_seconds_total"].len(), 1);
    assert!(families["pod_cpu_usage_seconds_total"].is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_fails_is_a_scrape_error_and_a_status_for_the_summary() {
    let api = api(|| Err(Error::unavailable("no figures today")));
    get(&api, "/stats/summary").await.is(503, "no figures today");
    let (_, families) = scrape(&api).await;
    assert_eq!(families["resource_scrape_error"][0].value, "1");
    assert!(families.values().flatten().count() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_measures_nothing_is_a_501_that_names_it() {
    let api = testing::api(Backend::default(), Vec::new());
    for path in ["/stats/summary", "/metrics/resource", "/metrics/resource/", "/metrics/cadvisor"] {
        get(&api, path).await.is(501, r#"provider "fake" does not measure resource usage"#);
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_incarnations_the_present_one_is_in_the_metrics_and_both_are_in_the_summary() {
    let api = api(|| {
        let mut old = three("web");
        old.pod = PodRef::new("default", "web", "uid-zzz-old");
        old.containers = vec![container("a", 99_000_000_000, 99)];
        Ok(Usage::of_pods(vec![old, three("web")]))
    });
    let (_, families) = scrape(&api).await;
    let shown = &families["pod_memory_working_set_bytes"];
    assert_eq!(shown.iter().map(|sample| sample.value.as_str()).collect::<Vec<_>>(), ["40"]);
    let summary: Value = serde_json::from_str(&get(&api, "/stats/summary").await.body).unwrap();
    assert_eq!(summary["pods"].as_array().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn counters_never_go_back_between_the_two_documents() {
    let calls = Arc::new(AtomicUsize::new(0));
    let api = api({
        let calls = Arc::clone(&calls);
        move || {
            let nanos = if calls.fetch_add(1, Ordering::Relaxed) == 0 { 5_000_000_000 } else { 1 };
            let pod = PodRef::new("default", "web", "uid-web");
            let containers = vec![container("a", nanos, 10)];
            Ok(Usage::of_pods(vec![PodUsage::new(pod, Some(start()), containers)]))
        }
    });
    get(&api, "/stats/summary").await;
    let (_, families) = scrape(&api).await;
    assert_eq!(families["container_cpu_usage_seconds_total"][0].value, "5");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn names_that_need_escaping_survive() {
    let api = api(|| {
        let pod = PodRef::new("default", "we\"b\\", "uid-web");
        Ok(Usage::of_pods(vec![PodUsage::new(pod, Some(start()), vec![container("a\nb", 1, 1)])]))
    });
    let (_, families) = scrape(&api).await;
    let labels = &families["container_cpu_usage_seconds_total"][0].labels;
    assert_eq!((labels[0].1.as_str(), labels[1].1.as_str()), ("a\nb", "we\"b\\"));
}
