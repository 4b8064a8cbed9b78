//! Where a check runs: a namespace of its own on the node under test.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::history::{History, Log};
use crate::pod::Seen;
use crate::settings::Settings;
use crate::stop::{Checked, Stop, code, describe};
use crate::workload::{MANAGED_BY, Workload};

/// How long a namespace may take to get its default service account, where a controller makes them.
const ACCOUNT: Duration = Duration::from_secs(5);
/// Between two looks at what is not watched.
const PAUSE: Duration = Duration::from_millis(250);

/// A node under test, and a namespace.
pub struct Bed {
    client: Client,
    settings: Settings,
    /// Empty where a check makes nothing.
    namespace: String,
    history: Option<History>,
}

impl std::fmt::Debug for Bed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bed").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Bed {
    /// For a check that only looks at what the cluster has: no namespace is made.
    #[must_use]
    pub fn looking(client: Client, settings: Settings) -> Self {
        Self { client, settings, namespace: String::new(), history: None }
    }

    /// Makes a namespace, whose name ends in five random characters, and watches its pods.
    /// [`close`](Self::close) has to follow.
    ///
    /// # Errors
    /// What the API server says against it.
    pub async fn open(client: Client, settings: Settings) -> Checked<Self> {
        let suffix: String = (0..5).map(|_| fastrand::alphanumeric().to_ascii_lowercase()).collect();
        let namespace = format!("{}-{suffix}", settings.prefix);
        let (key, value) = MANAGED_BY;
        let object = object::<Namespace>(json!({"metadata": {"name": namespace, "labels": {key: value}}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await?;
        let mut bed = Self { client, settings, namespace, history: None };
        if let Err(stop) = bed.have_account().await {
            // Nothing is in the namespace yet.
            let left = bed.close().await.err();
            return Err(left.map_or(stop, Stop::failed));
        }
        bed.history = Some(History::of(bed.api()));
        Ok(bed)
    }

    /// Pods need the namespace's default service account; without a controller nobody makes it.
    async fn have_account(&self) -> Checked {
        let accounts: Api<ServiceAccount> = self.api();
        let there = async {
            loop {
                match accounts.get_opt("default").await {
                    Ok(Some(_)) => return Ok(()),
                    // Who may not look can still create pods.
                    Err(error) if code(&error) == Some(403) => return Ok(()),
                    Err(error) => return Err(Stop::from(error)),
                    Ok(None) => sleep(PAUSE).await,
                }
            }
        };
        if let Ok(there) = timeout(ACCOUNT, there).await {
            return there;
        }
        let account = object::<ServiceAccount>(json!({"metadata": {"name": "default"}}))?;
        match accounts.create(&PostParams::default(), &account).await {
            // Somebody was a little late.
            Err(error) if code(&error) != Some(409) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Removes everything that the check made: the pods with their grace, by force what is left. The namespace's deletion
    /// is asked for; it takes seconds and may go on beside other checks ([`until_removed`]).
    ///
    /// # Errors
    /// What had to be done by force, or is left.
    pub async fn close(mut self) -> Result<(), String> {
        self.history = None;
        if self.namespace.is_empty() {
            return Ok(());
        }
        let pods = self.remove_pods().await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let deleted = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        pods.and(deleted.map(drop).map_err(|error| describe(&error)))
    }

    async fn remove_pods(&self) -> Result<(), String> {
        let pods: Api<Pod> = self.api();
        // Jobs would make new ones.
        let jobs: Api<k8s_openapi::api::batch::v1::Job> = self.api();
        let all = ListParams::default();
        // Whether any are left is looked at below; who may not delete jobs has made none.
        let _ = jobs.delete_collection(&DeleteParams::background(), &all).await;
        let list = async || pods.list(&all).await.map_err(|error| describe(&error));
        for pod in list().await? {
            let name = pod.metadata.name.clone().unwrap_or_default();
            if pod.metadata.finalizers.is_some_and(|finalizers| !finalizers.is_empty()) {
                let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                // Gone, or looked at below.
                let _ = pods.patch(&name, &PatchParams::default(), &patch).await;
            }
        }
        // Looked at below.
        let _ = pods.delete_collection(&DeleteParams::default(), &all).await;
        let end = Instant::now() + self.settings.patience;
        loop {
            let left = list().await?;
            if left.items.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                let names: Vec<String> = left.into_iter().filter_map(|pod| pod.metadata.name).collect();
                for name in &names {
                    // The namespace's deletion tells what stays.
                    let _ = pods.delete(name, &DeleteParams::default().grace_period(0)).await;
                }
                let within = self.settings.patience;
                return Err(format!(
                    "pods that were still there {within:?} after their deletion had to be deleted by force: {}",
                    names.join(", ")
                ));
            }
            sleep(PAUSE).await;
        }
    }

    /// A client for the cluster.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the run was given.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The node's name.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.settings.node
    }

    /// The check's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How long one change of a pod may take.
    pub(crate) fn patience(&self) -> Duration {
        self.settings.patience
    }

    /// Objects of the check's namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        self.api()
    }

    /// The Node object.
    pub(crate) async fn node(&self) -> Checked<Value> {
        let node = Api::<Node>::all(self.client.clone()).get(self.node_name()).await?;
        serde_json::to_value(node).map_err(|error| Stop::failed(format!("the Node object: {error}")))
    }

    /// A pod for this node, without containers yet.
    pub(crate) fn workload(&self) -> Workload {
        Workload::on(self.node_name(), &self.settings.image)
    }

    /// Creates an object in the namespace.
    pub(crate) async fn make<K>(&self, value: Value) -> Checked<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned + serde::Serialize,
        K::DynamicType: Default,
    {
        Ok(self.api::<K>().create(&PostParams::default(), &object(value)?).await?)
    }

    /// Creates a pod.
    pub(crate) async fn create(&self, name: &str, workload: &Workload) -> Checked<Seen> {
        let pod: Pod = self.make(workload.pod(name)).await?;
        Ok(Seen(serde_json::to_value(pod).unwrap_or(Value::Null)))
    }

    /// Creates a pod and waits until it is ready.
    pub(crate) async fn start(&self, name: &str, workload: &Workload) -> Checked<Seen> {
        self.create(name, workload).await?;
        self.until_ready(name).await
    }

    /// Waits until a pod runs and is ready.
    pub(crate) async fn until_ready(&self, name: &str) -> Checked<Seen> {
        self.until(name, "Running and Ready", Seen::ready).await
    }

    /// Waits until a pod has ended.
    pub(crate) async fn until_ended(&self, name: &str) -> Checked<Seen> {
        self.until(name, "ended", |pod| if pod.is_terminal() { Ok(()) } else { Err(pod.in_short()) }).await
    }

    /// Waits until `look` is content with a pod, at most as long as one change may take; the version it was content
    /// with.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        look: impl FnMut(&Seen) -> Result<(), String>,
    ) -> Checked<Seen> {
        self.until_within(name, what, self.patience(), look).await
    }

    /// The same with another limit.
    pub(crate) async fn until_within(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&Seen) -> Result<(), String>,
    ) -> Checked<Seen> {
        self.wait(&format!("pod {name} is not {what}"), within, |log| {
            let pod = log.newest(name).ok_or("it is not there")?;
            look(pod).map(|()| Seen(pod.0.clone()))
        })
        .await
    }

    /// Waits until a pod's object is gone, and returns what it was last.
    pub(crate) async fn until_gone(&self, pod: &Seen, within: Duration) -> Checked<Seen> {
        let uid = pod.uid();
        self.wait(&format!("pod {} is not gone", pod.name()), within, |log| match log.last(uid) {
            Some(last) => Ok(Seen(last.0.clone())),
            None => {
                Err(log.newest(pod.name()).map_or_else(|| "it is there".to_owned(), |pod| pod.in_short()))
            }
        })
        .await
    }

    /// Waits until something holds for what was seen.
    async fn wait<T>(
        &self,
        complaint: &str,
        within: Duration,
        mut look: impl FnMut(&Log) -> Result<T, String>,
    ) -> Checked<T> {
        let Some(history) = &self.history else {
            return Err(Stop::failed("this check has no namespace"));
        };
        let mut log = history.subscribe();
        let mut last = String::new();
        let found = timeout(within, async {
            loop {
                let looked = {
                    let log = log.borrow_and_update();
                    look(&log).map_err(|seen| match log.error() {
                        Some(error) => format!("{seen} (the watch failed: {error})"),
                        None => seen,
                    })
                };
                match looked {
                    Ok(found) => return Some(found),
                    Err(seen) => last = seen,
                }
                if log.changed().await.is_err() {
                    return None;
                }
            }
        })
        .await;
        match found {
            Ok(Some(found)) => Ok(found),
            _ => Err(Stop::failed(format!("{complaint} within {within:?}: {last}"))),
        }
    }

    /// Every version of a pod that was seen.
    pub(crate) fn versions(&self, pod: &Seen) -> Checked<Vec<std::sync::Arc<Seen>>> {
        let Some(history) = &self.history else { return Ok(Vec::new()) };
        if history.now(Log::has_gaps) {
            return Err(Stop::not_applicable("the watch broke off, and versions of the pod may be missing"));
        }
        Ok(history.now(|log| log.versions(pod.uid())))
    }

    /// Asks for a pod's deletion, with its own grace period or another.
    pub(crate) async fn delete(&self, pod: &Seen, grace: Option<u32>) -> Checked {
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        self.pods().delete(pod.name(), &params).await?;
        Ok(())
    }

    /// Looks again and again at what is not watched, until it is as it should be.
    pub(crate) async fn poll<T>(
        &self,
        complaint: &str,
        within: Duration,
        mut look: impl AsyncFnMut() -> Result<T, String>,
    ) -> Checked<T> {
        let end = Instant::now() + within;
        loop {
            let seen = match timeout(within, look()).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(seen)) => seen,
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() >= end {
                return Err(Stop::failed(format!("{complaint} within {within:?}: {seen}")));
            }
            sleep(PAUSE).await;
        }
    }

    /// Ends the check as not applicable when the caller may not do something.
    pub(crate) async fn may(&self, verb: &str, resource: &str, subresource: &str) -> Checked {
        let attributes = json!({"verb": verb, "resource": resource, "subresource": subresource,
            "namespace": if resource == "nodes" { "" } else { &self.namespace }});
        let review = object(json!({"metadata": {}, "spec": {"resourceAttributes": attributes}}))?;
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        // Who cannot ask finds out by trying.
        let Ok(review) = reviews.create(&PostParams::default(), &review).await else { return Ok(()) };
        match review.status {
            Some(status) if !status.allowed => {
                Err(Stop::not_applicable(format!("the caller may not {verb} {resource}/{subresource}")))
            }
            _ => Ok(()),
        }
    }
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> Checked<K> {
    serde_json::from_value(value).map_err(|error| Stop::failed(format!("a fault of this suite: {error}")))
}

/// Waits until these namespaces are gone; those that are not within this time.
pub async fn until_removed(client: &Client, mut namespaces: Vec<String>, within: Duration) -> Vec<String> {
    let api: Api<Namespace> = Api::all(client.clone());
    let end = Instant::now() + within;
    loop {
        let mut left = Vec::new();
        for namespace in namespaces {
            match api.delete(&namespace, &DeleteParams::default()).await {
                Err(error) if code(&error) == Some(404) => {}
                // On its way, or looked at again.
                Ok(_) | Err(_) => left.push(namespace),
            }
        }
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        namespaces = left;
        sleep(PAUSE).await;
    }
}
