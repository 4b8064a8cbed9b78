//! Workloads and services: what their making and changing answers; what controllers do with them is not asked.

use serde_json::{Value, json};

use crate::case::{Case, SERVICES, case, delete, get, merge, named, post, with};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/{ns}/deployments";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/{ns}/replicasets";
const STATEFUL_SETS: &str = "/apis/apps/v1/namespaces/{ns}/statefulsets";
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/{ns}/daemonsets";
const JOBS: &str = "/apis/batch/v1/namespaces/{ns}/jobs";
const CRON_JOBS: &str = "/apis/batch/v1/namespaces/{ns}/cronjobs";

fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "x"}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "a", "image": "x:1"}]},
    })
}

fn workload(name: &str) -> Value {
    json!({"metadata": named(name), "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template()}})
}

/// A job that no controller touches.
fn job(name: &str) -> Value {
    json!({"metadata": named(name), "spec": {"suspend": true, "template": with(template(), "/spec/restartPolicy", "Never")}})
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = made();
    cases.extend(refused());
    cases.extend(services());
    cases
}

fn made() -> Vec<Case> {
    let idle = |name: &str| with(workload(name), "/spec/replicas", 0);
    vec![
        case("a deployment", [post(DEPLOYMENTS, workload("d"))]),
        case(
            "a deployment that recreates",
            [post(DEPLOYMENTS, with(idle("d"), "/spec/strategy", json!({"type": "Recreate"})))],
        ),
        case("a replica set", [post(REPLICA_SETS, workload("r"))]),
        case("a stateful set", [post(STATEFUL_SETS, with(workload("s"), "/spec/serviceName", "x"))]),
        case("a daemon set", [post(DAEMON_SETS, workload("d"))]),
        case(
            "a job",
            [post(JOBS, job("j")), delete(format!("{JOBS}/j?propagationPolicy=Background"), Value::Null)],
        ),
        case(
            "an indexed job",
            [post(JOBS, with(with(job("j"), "/spec/completionMode", "Indexed"), "/spec/completions", 3))],
        ),
        case(
            "a job that cleans up after itself",
            [post(JOBS, with(job("j"), "/spec/ttlSecondsAfterFinished", 5))],
        ),
        case(
            "a cron job",
            [post(
                CRON_JOBS,
                json!({"metadata": named("c"), "spec": {"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": with(template(), "/spec/restartPolicy", "Never")}}}}),
            )],
        ),
        case(
            "a scale",
            [
                post(REPLICA_SETS, idle("r")),
                get(format!("{REPLICA_SETS}/r")).until("/status/observedGeneration", 1),
                get(format!("{REPLICA_SETS}/r/scale")),
            ],
        ),
        case(
            "the generation of a replica set",
            [
                post(REPLICA_SETS, idle("r")),
                get(format!("{REPLICA_SETS}/r")).until("/status/observedGeneration", 1),
                merge(format!("{REPLICA_SETS}/r"), json!({"metadata": {"labels": {"x": "1"}}})),
                merge(format!("{REPLICA_SETS}/r"), json!({"spec": {"minReadySeconds": 3}})),
            ],
        ),
    ]
}

fn refused() -> Vec<Case> {
    vec![
        case(
            "deployments that are none",
            [
                post(DEPLOYMENTS, with(workload("d"), "/spec/selector", Value::Null)),
                post(
                    DEPLOYMENTS,
                    with(workload("d"), "/spec/selector", json!({"matchLabels": {"app": "y"}})),
                ),
                post(DEPLOYMENTS, with(workload("d"), "/spec/replicas", -1)),
                post(DEPLOYMENTS, with(workload("d"), "/spec/template/spec/containers", json!([]))),
                post(DEPLOYMENTS, with(workload("d"), "/spec/template/spec/restartPolicy", "Never")),
                post(DEPLOYMENTS, with(workload("Upper"), "/spec/replicas", 0)),
            ],
        ),
        case(
            "a selector is settled",
            [
                post(REPLICA_SETS, with(workload("r"), "/spec/replicas", 0)),
                get(format!("{REPLICA_SETS}/r")).until("/status/observedGeneration", 1),
                merge(
                    format!("{REPLICA_SETS}/r"),
                    json!({"spec": {"selector": {"matchLabels": {"app": "y"}}, "template": {"metadata": {"labels": {"app": "y"}}}}}),
                ),
            ],
        ),
        case(
            "jobs that are none",
            [
                post(JOBS, with(job("j"), "/spec/template/spec/restartPolicy", "Always")),
                post(JOBS, with(job("j"), "/spec/template/spec/restartPolicy", Value::Null)),
                post(JOBS, with(job("j"), "/spec/parallelism", -1)),
                post(JOBS, with(job("j"), "/spec/selector", json!({"matchLabels": {"app": "x"}}))),
            ],
        ),
    ]
}

fn services() -> Vec<Case> {
    let service =
        || json!({"metadata": named("s"), "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}});
    let s = || format!("{SERVICES}/s");
    vec![
        case(
            "a service",
            [
                post(SERVICES, service()),
                merge(s(), json!({"spec": {"ports": [{"port": 81, "name": "x"}]}})),
                delete(s(), Value::Null),
                get(s()),
            ],
        ),
        case("a headless service", [post(SERVICES, with(service(), "/spec/clusterIP", "None"))]),
        case(
            "an external name",
            [post(
                SERVICES,
                json!({"metadata": named("s"), "spec": {"type": "ExternalName", "externalName": "example.com"}}),
            )],
        ),
        case(
            "services that are none",
            [
                post(SERVICES, with(service(), "/spec/ports", json!([]))),
                post(SERVICES, with(service(), "/spec/ports", json!([{"port": 0}]))),
                post(SERVICES, with(service(), "/spec/ports", json!([{"port": 80}, {"port": 81}]))),
                post(SERVICES, with(service(), "/metadata/name", "9a")),
                post(SERVICES, with(service(), "/spec/type", "Magic")),
            ],
        ),
    ]
}
