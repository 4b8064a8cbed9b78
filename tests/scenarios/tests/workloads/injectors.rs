//! Pods as injectors leave them: Istio's, Dapr's, Vault's. They run, drain, and let a Job complete.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tokio::time::Instant;
use vk_scenarios::container_node::{ContainerNode, DRAINED, container, pod_of, server, with};
use vk_scenarios::pods::phase_of;
use vk_scenarios::{Objects, Pods, World};

/// The application: it takes requests until it is told to stop.
const APP: &str = "trap 'echo app stops; exit 0' TERM; echo app runs; sleep 10000 & wait";
/// The application of a Job.
const TASK: &str = "echo working; sleep 5; echo done";

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn token(audience: &str, path: &str) -> Value {
    json!({"serviceAccountToken": {"audience": audience, "expirationSeconds": 43200, "path": path}})
}

/// What `istioctl kube-inject` makes of it (1.29, native sidecars): an init container with resources, a sidecar with a
/// startup probe, a token for the control plane, labels as files, the mesh's root certificate.
fn istio(mut spec: Value) -> Value {
    let init = with(
        container("istio-init", "echo rules are set"),
        json!({
            "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "10m", "memory": "40Mi"}},
            "securityContext": {"runAsUser": 0, "runAsGroup": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        }),
    );
    let proxy = with(
        server("istio-proxy"),
        json!({
            "restartPolicy": "Always",
            "env": [
                field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
                field("INSTANCE_IP", "status.podIP"), field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
                field("HOST_IP", "status.hostIP"),
                {"name": "ISTIO_CPU_LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "GOMEMLIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            ],
            "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "10m", "memory": "40Mi"}},
            "startupProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1,
                "failureThreshold": 600, "timeoutSeconds": 3},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 15,
                "failureThreshold": 4, "timeoutSeconds": 3},
            "lifecycle": {"preStop": {"httpGet": {"path": "/prestop", "port": 8080}}},
            "volumeMounts": [
                {"name": "istio-envoy", "mountPath": "/etc/istio/proxy"},
                {"name": "istio-token", "mountPath": "/var/run/secrets/tokens"},
                {"name": "istio-podinfo", "mountPath": "/etc/istio/pod"},
                {"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio"},
            ],
        }),
    );
    spec["initContainers"] = json!([init, proxy]);
    spec["volumes"] = json!([
        {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-token", "projected": {"sources": [token("istio-ca", "istio-token")]}},
        {"name": "istio-podinfo", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}},
    ]);
    spec
}

/// What Dapr's injector makes of it (1.16, native sidecar): one container with much environment and a token.
fn dapr(mut spec: Value) -> Value {
    let literals =
        (0..40).map(|i| json!({"name": format!("DAPR_SETTING_{i}"), "value": format!("value-{i}")}));
    let mut env: Vec<_> = literals.collect();
    env.extend([field("POD_NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace")]);
    env.push(json!({"name": "DAPR_TRUST_ANCHORS", "valueFrom":
        {"secretKeyRef": {"name": "dapr-trust-bundle", "key": "ca.crt", "optional": true}}}));
    env.push(json!({"name": "DAPR_ADDRESS", "value": "$(POD_NAME).$(NAMESPACE)"}));
    let daprd = with(
        server("daprd"),
        json!({
            "restartPolicy": "Always", "env": env,
            "startupProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1,
                "failureThreshold": 60},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "initialDelaySeconds": 3,
                "periodSeconds": 6, "timeoutSeconds": 3},
            "securityContext": {"allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65532,
                "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": "dapr-identity-token", "mountPath": "/var/run/secrets/dapr.io/sentrytoken"}],
        }),
    );
    spec["initContainers"] = json!([daprd]);
    spec["volumes"] = json!([{"name": "dapr-identity-token",
        "projected": {"defaultMode": 420, "sources": [token("spiffe://cluster.local/ns/dapr/sentry", "token")]}}]);
    spec
}

/// What Vault's agent injector makes of it: an agent that writes the secrets before the application starts, and, unless
/// it only does that, another that keeps them up to date; they share a folder in memory.
fn vault(mut spec: Value, keeps: bool) -> Value {
    let mount = json!([
        {"name": "home-init", "mountPath": "/home/vault"},
        {"name": "vault-secrets", "mountPath": "/vault/secrets"}]);
    let agent = |name: &str, script: &str| {
        with(
            container(name, script),
            json!({
                "env": [{"name": "VAULT_LOG_LEVEL", "value": "info"}],
                "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "250m", "memory": "64Mi"}},
                "securityContext": {"runAsUser": 100, "runAsGroup": 1000, "runAsNonRoot": true},
                "volumeMounts": mount,
            }),
        )
    };
    spec["initContainers"] =
        json!([agent("vault-agent-init", "sleep 1; echo from-vault > /vault/secrets/config")]);
    let app = &mut spec["containers"][0];
    app["volumeMounts"] = json!([{"name": "vault-secrets", "mountPath": "/vault/secrets"}]);
    if keeps {
        let agent = agent("vault-agent", "trap 'exit 0' TERM; sleep 10000 & wait");
        spec["containers"].as_array_mut().unwrap().push(agent);
    }
    spec["volumes"] = json!([
        {"name": "home-init", "emptyDir": {"medium": "Memory"}},
        {"name": "vault-secrets", "emptyDir": {"medium": "Memory"}}]);
    spec
}

fn app(script: &str) -> Value {
    json!({"containers": [container("app", script)]})
}

struct Mesh {
    world: World,
    node: ContainerNode,
    pods: Pods,
}

impl Mesh {
    async fn new() -> Self {
        let world = World::in_memory().await;
        let node = ContainerNode::ready(&world).await;
        let pods = Pods::of(&world);
        let root =
            json!({"metadata": {"name": "istio-ca-root-cert"}, "data": {"root-cert.pem": "the mesh's root"}});
        Objects::<ConfigMap>::of(&world).create(root).await;
        Self { world, node, pods }
    }

    /// Runs the pod to Ready and deletes it; what `look` sees is of the running one.
    async fn run(
        &self,
        name: &str,
        spec: Value,
        look: impl AsyncFnOnce(&Self, &k8s_openapi::api::core::v1::Pod),
    ) {
        self.pods.create(&pod_of(name, &self.node.name, spec)).await;
        let pod = self.pods.until_ready(name).await;
        look(self, &pod).await;
        let deleted = Instant::now();
        self.pods.delete(name).await;
        self.pods.until_gone(name).await;
        assert!(deleted.elapsed() < DRAINED, "{:?}", deleted.elapsed());
    }

    /// Runs a Job of that pod to its completion.
    async fn complete(&self, name: &str, mut spec: Value) {
        spec["restartPolicy"] = json!("Never");
        spec["nodeName"] = json!(self.node.name);
        spec["automountServiceAccountToken"] = json!(false);
        let jobs = Objects::<Job>::of(&self.world);
        let labels = json!({"app": name});
        jobs.create(json!({"metadata": {"name": name}, "spec": {"backoffLimit": 0,
            "template": {"metadata": {"labels": labels}, "spec": spec}}}))
            .await;
        let begun = Instant::now();
        let complete = |job: &Job| {
            let conditions = job.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
            conditions.into_iter().any(|c| c.type_ == "Complete" && c.status == "True")
        };
        jobs.until(name, "is complete", complete).await;
        assert!(begun.elapsed() < DRAINED, "{:?}", begun.elapsed());
        let all = self.pods.list().await;
        let pod = all.iter().find(|pod| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).is_some_and(|app| app == name)
        });
        assert_eq!(phase_of(pod.expect("its pod")), Some("Succeeded"));
    }
}

fn claims(token: &str) -> Value {
    let part = token.trim().split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("claims")
}

#[tokio::test(start_paused = true)]
async fn an_istio_pod_runs_drains_and_lets_a_job_complete() {
    let mesh = Mesh::new().await;
    let mut spec = istio(app(APP));
    spec["terminationGracePeriodSeconds"] = json!(30);
    mesh.run("web", spec, async |mesh, pod| {
        let status = pod.status.as_ref().unwrap();
        let proxy = &status.init_container_statuses.as_ref().unwrap()[1];
        assert_eq!((proxy.started, proxy.ready), (Some(true), true));
        let read = async |file: &str| mesh.node.exec(pod, "istio-proxy", &format!("cat {file}")).await.1;
        let claims = claims(&read("/var/run/secrets/tokens/istio-token").await);
        assert_eq!(claims["aud"], json!(["istio-ca"]));
        assert_eq!(claims["kubernetes.io"]["pod"]["name"], "web");
        assert_eq!(read("/etc/istio/pod/labels").await, "app=\"web\"");
        assert_eq!(read("/var/run/secrets/istio/root-cert.pem").await, "the mesh's root");
        let env = mesh.node.exec(pod, "istio-proxy", "env").await.1;
        let wanted = [
            format!("INSTANCE_IP={}", status.pod_ip.clone().unwrap()),
            format!("HOST_IP={}", status.host_ip.clone().unwrap()),
            "SERVICE_ACCOUNT=default".to_owned(),
            "ISTIO_CPU_LIMIT=2".to_owned(),
            "GOMEMLIMIT=1073741824".to_owned(),
        ];
        for line in wanted {
            assert!(env.lines().any(|other| other == line), "{line} in {env}");
        }
    })
    .await;
    mesh.complete("task", istio(app(TASK))).await;
}

#[tokio::test(start_paused = true)]
async fn a_dapr_pod_runs_drains_and_lets_a_job_complete() {
    let mesh = Mesh::new().await;
    mesh.run("orders", dapr(app(APP)), async |mesh, pod| {
        let env = mesh.node.exec(pod, "daprd", "env").await.1;
        let names: Vec<_> = env.lines().filter_map(|line| line.split_once('=')).collect();
        let at = |name: &str| names.iter().position(|(other, _)| *other == name);
        for i in 1..40 {
            assert!(
                at(&format!("DAPR_SETTING_{i}")) > at(&format!("DAPR_SETTING_{}", i - 1)),
                "in order: {env}"
            );
        }
        assert_eq!(at("DAPR_TRUST_ANCHORS"), None, "optional, and not there");
        let address = format!("orders.{}", mesh.world.namespace);
        assert!(names.contains(&("DAPR_ADDRESS", &address)), "{env}");
        let token = mesh.node.exec(pod, "daprd", "cat /var/run/secrets/dapr.io/sentrytoken/token").await.1;
        assert_eq!(claims(&token)["aud"], json!(["spiffe://cluster.local/ns/dapr/sentry"]));
    })
    .await;
    mesh.complete("batch", dapr(app(TASK))).await;
}

#[tokio::test(start_paused = true)]
async fn a_vault_pod_finds_its_secrets_drains_and_lets_a_job_complete() {
    let mesh = Mesh::new().await;
    mesh.run("bank", vault(app(APP), true), async |mesh, pod| {
        for container in ["app", "vault-agent"] {
            assert_eq!(
                mesh.node.exec(pod, container, "cat /vault/secrets/config").await,
                (0, "from-vault\n".to_owned())
            );
        }
        // What the agent renews, the application sees.
        mesh.node.exec(pod, "vault-agent", "echo renewed > /vault/secrets/config").await;
        assert_eq!(mesh.node.exec(pod, "app", "cat /vault/secrets/config").await.1, "renewed\n");
    })
    .await;
    // `vault.hashicorp.com/agent-pre-populate-only`, as is told of Jobs.
    mesh.complete("interest", vault(app("cat /vault/secrets/config; sleep 2"), false)).await;
}
