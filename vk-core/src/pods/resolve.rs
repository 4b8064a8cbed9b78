//! From a pod to a [`ResolvedPod`]: reads what the pod refers to.
//!
//! ```text
//!  pod ─▶ containers, files ──▶ findings: unread? ─▶ read (API server's cache) ─┐
//!             ▲                           lacking? ─▶ read (current) ───────────┤
//!             │                           tokens?  ─▶ asked for ────────────────┤
//!             └───────────────────────── snapshot ◀────────────────────────────┘
//! ```
//!
//! Putting a pod together is pure: it asks a snapshot of what has been read so far for objects, and notes
//! what is not in it. So nothing walks the pod a second time to learn what it refers to, and a pod that
//! refers to nothing costs no call. An object that seems to be missing, or to lack a key, is read once more
//! from the current state: caches are behind right after an object was made.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;

pub use self::object::{Detail, Object, ObjectKind, ObjectRef};
pub use self::reader::{Freshness, KubeReader, ObjectReader, Sighting};
pub use self::services::ServiceFacts;
pub use self::tokens::{Token, TokenAsk};

use self::fields::{Context, NodeFacts};
use self::findings::{Findings, Loaded, Snapshot};
use self::shared::SharedReads;
use self::tokens::Tokens;
use self::wake::Wakes;
use crate::events::{PodEventRecord, Reason, Recorder};
use crate::pods::status::WaitingFor;
use crate::provider::{Blocked, PodRef, PodUid, ResolvedPod};

mod containers;
mod credentials;
mod env_files;
mod expand;
mod fields;
mod files;
mod findings;
mod object;
mod quantity;
mod reader;
mod services;
mod shared;
mod tokens;
mod wake;

#[cfg(test)]
mod fake;

/// How many objects of one pod are read at once.
const READS_AT_ONCE: usize = 8;

/// What is known of a pod only once its backend has begun with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LateBound {
    /// The pod's addresses, first the one of its first IP family. Empty: those of its status, or unknown.
    pub pod_ips: Vec<IpAddr>,
    /// The addresses of what it runs on. Empty: the node's own.
    pub host_ips: Vec<IpAddr>,
}

/// What a variable gets that refers to `status.podIP` or `status.podIPs`, where the backend does not know the
/// pod's address before its containers start.
///
/// In a configuration: `fail`, `empty`, `node-ip`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LateBoundPolicy {
    /// The pod is refused, with the field's path.
    #[default]
    Fail,
    /// An empty value, and a warning event.
    Empty,
    /// The node's address, and a warning event.
    NodeIp,
}

impl std::str::FromStr for LateBoundPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(Self::Fail),
            "empty" => Ok(Self::Empty),
            "node-ip" => Ok(Self::NodeIp),
            other => Err(format!("{other:?} is none of fail, empty and node-ip")),
        }
    }
}

/// What is resolved, and how, for all pods of a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolveOptions {
    /// Default: [`LateBoundPolicy::Fail`].
    pub late_bound: LateBoundPolicy,
    /// Whether tokens are asked for; without, volumes with one are left to the backend as a whole. Default: yes.
    pub tokens: bool,
    /// Whether a pod is resolved as far as it goes when something that single containers refer to is missing:
    /// for backends with [`Feature::PartialPods`](crate::provider::Feature::PartialPods). Default: no.
    pub partial: bool,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self { late_bound: LateBoundPolicy::default(), tokens: true, partial: false }
    }
}

/// A pod as far as it could be resolved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Resolution {
    /// The pod.
    pub pod: ResolvedPod,
    /// What its [`blocked`](crate::provider::ResolvedContainer::blocked) containers wait for.
    pub missing: Vec<ObjectRef>,
    /// Whether any container is blocked.
    pub blocked: bool,
}

/// Why a pod could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Objects, or keys of objects, that the pod cannot do without are not there, on evidence.
    #[error("missing: {}", list(.missing))]
    Missing {
        /// Containers that wait for something of their own, with a kubelet's reason and message. Others
        /// wait with `ContainerCreating`; so do all of them while a volume is what is missing.
        waiting: BTreeMap<String, WaitingFor>,
        /// What to wait for: see [`Resolver::wake_when_present`].
        missing: Vec<ObjectRef>,
    },
    /// The pod can never be resolved as it is written.
    #[error("{field}: {reason}")]
    Invalid {
        /// The JSON path of the offending field.
        field: String,
        /// What is wrong with it, and what to do instead.
        reason: String,
    },
    /// The API server did not let the object be read; try again with back-off. Nothing is known of the
    /// object, least of all that it is missing.
    #[error("cannot read {object}: {}", brief(.cause))]
    Read {
        /// The object.
        object: ObjectRef,
        /// The answer. Nothing of a Secret's content is in it.
        cause: Arc<kube::Error>,
    },
}

fn list(objects: &[ObjectRef]) -> String {
    objects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An API error in one line; its own text repeats the whole status.
fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

/// Resolves the pods of one node.
#[derive(Debug)]
pub struct Resolver<R = KubeReader> {
    reads: SharedReads<R>,
    wakes: Wakes<R>,
    recorder: Recorder,
    options: ResolveOptions,
    node: RwLock<NodeFacts>,
    /// Until the pod is forgotten.
    memory: Mutex<HashMap<PodUid, Memory>>,
}

/// What is remembered of a pod between attempts. Bounded by what the pod refers to.
#[derive(Debug, Default)]
struct Memory {
    /// Events that have been recorded.
    told: HashSet<(Reason, String, Option<String>)>,
    /// What was missing the last time, and the version that was not enough.
    missing: BTreeMap<ObjectRef, Sighting>,
    /// What its files came from the last time, and in which versions.
    sources: BTreeMap<ObjectRef, Sighting>,
    tokens: Tokens,
}

impl Resolver {
    /// Reads with the client's identity, which needs `get`, `list` and `watch` on ConfigMaps and Secrets, by
    /// name; `get` and `list` on Services; `get` on PersistentVolumeClaims and PersistentVolumes; and `create`
    /// on `serviceaccounts/token`. ClusterTrustBundles need `get` and `list`, where pods project them.
    #[must_use]
    pub fn new(client: kube::Client, recorder: Recorder) -> Self {
        Self::with_reader(KubeReader::new(client), recorder)
    }
}

impl<R: ObjectReader> Resolver<R> {
    /// Reads through something else than a client.
    #[must_use]
    pub fn with_reader(reader: R, recorder: Recorder) -> Self {
        let reader = Arc::new(reader);
        Self {
            reads: SharedReads::new(Arc::clone(&reader)),
            wakes: Wakes::new(reader),
            recorder,
            options: ResolveOptions::default(),
            node: RwLock::default(),
            memory: Mutex::default(),
        }
    }

    /// Sets what is resolved, and how.
    #[must_use]
    pub fn with_options(mut self, options: ResolveOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets the node's addresses, for `status.hostIP`. Default: those of the pod's status.
    #[must_use]
    pub fn with_host_ips(self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.node.write().unwrap_or_else(PoisonError::into_inner).host_ips = addresses.into_iter().collect();
        self
    }

    /// Sets the node's allocatable resources, which `resourceFieldRef` gives for a limit that is not set.
    /// May be called again when they change. Default: none, and such a reference is an error.
    pub fn set_allocatable(&self, allocatable: BTreeMap<String, Quantity>) {
        self.node.write().unwrap_or_else(PoisonError::into_inner).allocatable = allocatable;
    }

    /// Resolves a pod of which the backend knows nothing yet.
    pub async fn resolve(&self, pod: &Arc<Pod>) -> Result<ResolvedPod, ResolveError> {
        self.resolve_with(pod, &LateBound::default()).await.map(|resolution| resolution.pod)
    }

    /// Resolves a pod, with what its backend has said of it so far.
    ///
    /// Records what is missing or unreadable as events: for each pod every event once, however often the
    /// pod is tried again.
    pub async fn resolve_with(&self, pod: &Arc<Pod>, late: &LateBound) -> Result<Resolution, ResolveError> {
        let id = PodRef::of(pod).ok_or_else(|| ResolveError::Invalid {
            field: "metadata".into(),
            reason: "name, namespace or uid is missing, which no pod from an API server lacks".into(),
        })?;
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let node = self.node.read().unwrap_or_else(PoisonError::into_inner).clone();
        let context =
            Context { pod, spec, namespace: &id.namespace, late, node: &node, options: &self.options };
        let mut snapshot = Snapshot::default();
        // At most four passes beside one for each link from claim to volume: nothing read, everything read,
        // what was lacking read again, tokens asked for.
        loop {
            let mut findings = Findings::new(&snapshot);
            let volumes = files::resolve(&context, &mut findings)?;
            let mut containers = containers::resolve(&context, &mut findings)?;
            let credentials = credentials::resolve(spec, &id.namespace, &mut findings);
            let (wanted, freshness) = if findings.unread.is_empty() {
                (findings.unconfirmed(), Freshness::Current)
            } else {
                (std::mem::take(&mut findings.unread), Freshness::Cached)
            };
            if !wanted.is_empty() {
                drop(findings);
                self.read_into(&mut snapshot, &id, wanted, freshness).await?;
                continue;
            }
            let waiting = findings.waiting();
            let missing = findings.missing();
            let partial = self.options.partial && !findings.volume_missing();
            let lacking = !missing.is_empty() || !waiting.is_empty();
            let given_up = lacking && !partial;
            if !given_up && !findings.unasked.is_empty() {
                // Last, because a token is worth asking for only once nothing else is missing.
                let unasked = std::mem::take(&mut findings.unasked);
                drop(findings);
                self.ask_tokens(&mut snapshot, &id, unasked).await?;
                continue;
            }
            self.tell(&id, findings.events());
            self.remember(&id.uid, &missing, &findings);
            let missing = missing.into_keys().collect();
            if given_up {
                return Err(ResolveError::Missing { waiting, missing });
            }
            for container in &mut containers {
                container.blocked = waiting
                    .get(&container.name)
                    .map(|waits| Blocked { reason: waits.reason.clone(), message: waits.message.clone() });
            }
            let pod = ResolvedPod::new(id, as_scheduled(pod), containers, volumes)
                .with_pull_credentials(credentials);
            return Ok(Resolution { pod, missing, blocked: !waiting.is_empty() });
        }
    }

    /// Asks for the tokens that the pod does not have, or not for long any more.
    async fn ask_tokens(
        &self,
        snapshot: &mut Snapshot,
        id: &PodRef,
        unasked: BTreeSet<TokenAsk>,
    ) -> Result<(), ResolveError> {
        for ask in unasked {
            let now = Instant::now();
            let held = self.memory().get(&id.uid).and_then(|memory| memory.tokens.fresh(&ask, now));
            let token = match held {
                Some(token) => token,
                None => match self.reads.token(id, &ask).await {
                    Ok(token) => {
                        let token = Arc::new(token);
                        let mut memory = self.memory();
                        let tokens = &mut memory.entry(id.uid.clone()).or_default().tokens;
                        tokens.keep(ask.clone(), Arc::clone(&token), Instant::now());
                        token
                    }
                    Err(cause) => {
                        let object = ObjectRef {
                            kind: ObjectKind::ServiceAccount,
                            namespace: Arc::clone(&id.namespace),
                            name: ask.account.as_str().into(),
                        };
                        self.tell(id, vec![findings::unreadable(&object, false)]);
                        let held = self.memory().get(&id.uid).and_then(|m| m.tokens.valid(&ask, now));
                        // The old one does until it ends.
                        held.ok_or(ResolveError::Read { object, cause })?
                    }
                },
            };
            snapshot.tokens.insert(ask, token);
        }
        Ok(())
    }

    /// Reads objects, several at once. An object that cannot be read ends it: an error is not absence, not
    /// even for what is optional.
    async fn read_into(
        &self,
        snapshot: &mut Snapshot,
        id: &PodRef,
        wanted: BTreeMap<ObjectRef, bool>,
        freshness: Freshness,
    ) -> Result<(), ResolveError> {
        let reads = wanted.into_iter().map(|(object, optional)| async move {
            let answer = self.reads.read(&object, freshness).await;
            (object, optional, answer)
        });
        let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        while let Some((object, optional, answer)) = reads.next().await {
            match answer {
                Ok(found) => {
                    let confirmed = freshness == Freshness::Current;
                    snapshot.objects.insert(object, Loaded { object: found, confirmed });
                }
                Err(cause) => {
                    self.tell(id, vec![findings::unreadable(&object, optional)]);
                    return Err(ResolveError::Read { object, cause });
                }
            }
        }
        Ok(())
    }

    /// Calls `wake`, once, as soon as one of `missing` is there, or, where it was there and lacked
    /// something, has changed. Replaces what was asked for this pod before.
    ///
    /// Survives watch errors. At most 128 objects are watched at a time; the others are found by the caller
    /// trying again. `wake` must not block.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn wake_when_present(
        &self,
        pod: &PodRef,
        missing: &[ObjectRef],
        wake: Arc<dyn Fn(&PodUid) + Send + Sync>,
    ) {
        let known = self.memory().get(&pod.uid).map(|memory| memory.missing.clone()).unwrap_or_default();
        let beyond = |object| known.get(object).cloned().flatten();
        let objects = missing.iter().filter(|object| object.kind.is_watchable());
        let objects = objects.map(|object| (object.clone(), beyond(object))).collect();
        self.wakes.wait(&pod.uid, objects, wake);
    }

    /// Calls `wake`, once, as soon as something has changed that the pod's files came from when it was resolved
    /// last, or that its containers lacked then. Replaces what was asked for this pod before.
    ///
    /// Beyond the limit of [`wake_when_present`](Self::wake_when_present), changes are noticed within two
    /// minutes. `wake` must not block.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn wake_when_changed(&self, pod: &PodRef, wake: Arc<dyn Fn(&PodUid) + Send + Sync>) {
        let mut objects = HashMap::new();
        if let Some(memory) = self.memory().get(&pod.uid) {
            let known = memory.sources.iter().chain(&memory.missing);
            objects.extend(known.filter(|(o, _)| o.kind.is_watchable()).map(|(o, v)| (o.clone(), v.clone())));
        }
        if objects.is_empty() {
            self.wakes.forget(&pod.uid);
        } else {
            self.wakes.wait(&pod.uid, objects, wake);
        }
    }

    /// When the pod has to be resolved again for the sake of its tokens.
    #[must_use]
    pub fn tokens_due(&self, uid: &PodUid) -> Option<Instant> {
        self.memory().get(uid)?.tokens.due()
    }

    /// The pod is gone: forgets what it waited for and which events it had.
    pub fn forget(&self, uid: &PodUid) {
        self.wakes.forget(uid);
        self.memory().remove(uid);
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<PodUid, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the events that this pod has not had yet.
    fn tell(&self, pod: &PodRef, events: Vec<PodEventRecord>) {
        for event in self.untold(&pod.uid, events) {
            self.recorder.pod(pod, event);
        }
    }

    fn untold(&self, uid: &PodUid, mut events: Vec<PodEventRecord>) -> Vec<PodEventRecord> {
        if !events.is_empty() {
            let mut memory = self.memory();
            let told = &mut memory.entry(uid.clone()).or_default().told;
            events
                .retain(|event| told.insert((event.reason, event.message.clone(), event.container.clone())));
        }
        events
    }

    fn remember(&self, uid: &PodUid, missing: &BTreeMap<ObjectRef, Sighting>, findings: &Findings<'_>) {
        let sources = findings.sources();
        let mut memory = self.memory();
        if !missing.is_empty() || !sources.is_empty() || !findings.tokens.is_empty() {
            memory.entry(uid.clone()).or_default();
        }
        if let Some(memory) = memory.get_mut(uid) {
            memory.missing.clone_from(missing);
            memory.sources = sources;
            memory.tokens.retain(|ask| findings.tokens.contains(ask));
        }
    }
}

/// The object without what the backend has no use for.
fn as_scheduled(pod: &Arc<Pod>) -> Arc<Pod> {
    if pod.status.is_none() && pod.metadata.managed_fields.is_none() {
        return Arc::clone(pod);
    }
    let mut metadata = pod.metadata.clone();
    metadata.managed_fields = None;
    Arc::new(Pod { metadata, spec: pod.spec.clone(), status: None })
}

#[cfg(test)]
mod tests;
