//! What came out while a pod was put together: objects still to be read, objects and keys that are not
//! there, names that cannot be variables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::object::{Object, ObjectKind, ObjectRef};
use super::tokens::{Token, TokenAsk};
use crate::events::{PodEventRecord, Reason};
use crate::pods::status::WaitingFor;

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) objects: HashMap<ObjectRef, Loaded>,
    pub(super) tokens: HashMap<TokenAsk, Arc<Token>>,
}

/// An answer of the API server about one object.
#[derive(Debug)]
pub(super) struct Loaded {
    /// `None` means that there is none.
    pub(super) object: Option<Arc<Object>>,
    /// Whether the answer was current when it was given, rather than from a cache.
    pub(super) confirmed: bool,
}

/// Where in the pod something is referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The environment of this container.
    Container(String),
    /// This volume.
    Volume(String),
    /// The credentials for the pod's images, which it may have to do without.
    Pull,
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// There is none.
    Absent,
    /// It lacks this key.
    Key(String),
    /// The value of this key cannot be an environment variable.
    NotText(String),
    /// It is a claim, and no volume is bound to it yet.
    Unbound,
}

/// Something that the pod refers to and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) object: ObjectRef,
    pub(super) what: What,
    pub(super) optional: bool,
    pub(super) place: Place,
}

/// Gathered over one attempt to put a pod together.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    snapshot: &'a Snapshot,
    /// Objects the snapshot says nothing of, and whether the pod can do without them.
    pub(super) unread: BTreeMap<ObjectRef, bool>,
    pub(super) lacks: Vec<Lack>,
    /// Names that cannot be environment variables, by the object they came from.
    pub(super) invalid_names: BTreeMap<ObjectRef, Vec<String>>,
    /// Objects that volumes take files from.
    pub(super) files_from: BTreeSet<ObjectRef>,
    /// Tokens that are not there yet.
    pub(super) unasked: BTreeSet<TokenAsk>,
    /// Tokens that the pod has a use for.
    pub(super) tokens: BTreeSet<TokenAsk>,
    /// Containers that cannot be started as they are written, and why.
    pub(super) unstartable: BTreeMap<String, String>,
    /// Fields that only the backend knows, and what the pod got instead.
    pub(super) late_bound: BTreeMap<String, String>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            unread: BTreeMap::new(),
            lacks: Vec::new(),
            invalid_names: BTreeMap::new(),
            files_from: BTreeSet::new(),
            unasked: BTreeSet::new(),
            tokens: BTreeSet::new(),
            unstartable: BTreeMap::new(),
            late_bound: BTreeMap::new(),
        }
    }

    /// The object, if it has been read and is there; otherwise that is noted.
    pub(super) fn object(
        &mut self,
        wanted: &ObjectRef,
        optional: bool,
        place: &Place,
    ) -> Option<Arc<Object>> {
        match self.snapshot.objects.get(wanted) {
            Some(Loaded { object: Some(object), .. }) => Some(Arc::clone(object)),
            Some(Loaded { object: None, .. }) => {
                self.lack(wanted, What::Absent, optional, place);
                None
            }
            None => {
                *self.unread.entry(wanted.clone()).or_insert(true) &= optional;
                None
            }
        }
    }

    /// The object, if it has been read and is there. That it is not there is nothing to speak of.
    pub(super) fn peek(&mut self, wanted: &ObjectRef) -> Option<Arc<Object>> {
        let loaded = self.snapshot.objects.get(wanted);
        if loaded.is_none() {
            // An entry that is there already says enough.
            self.unread.entry(wanted.clone()).or_insert(true);
        }
        loaded?.object.clone()
    }

    /// The token, if it has been asked for; otherwise that is noted.
    pub(super) fn token(&mut self, ask: TokenAsk) -> Option<Arc<Token>> {
        let token = self.snapshot.tokens.get(&ask).cloned();
        if token.is_none() {
            self.unasked.insert(ask.clone());
        }
        self.tokens.insert(ask);
        token
    }

    /// The objects that the pod's files come from, in the versions that were read.
    pub(super) fn sources(&self) -> BTreeMap<ObjectRef, Option<String>> {
        self.files_from.iter().map(|object| (object.clone(), self.version(object))).collect()
    }

    /// Notes that an object that is there is not enough.
    pub(super) fn lack(&mut self, object: &ObjectRef, what: What, optional: bool, place: &Place) {
        self.lacks.push(Lack { object: object.clone(), what, optional, place: place.clone() });
    }

    /// Objects that lack something according to a cache only.
    pub(super) fn unconfirmed(&self) -> BTreeMap<ObjectRef, bool> {
        let mut all = BTreeMap::new();
        for lack in &self.lacks {
            if self.snapshot.objects.get(&lack.object).is_some_and(|loaded| !loaded.confirmed) {
                *all.entry(lack.object.clone()).or_insert(true) &= lack.optional;
            }
        }
        all
    }

    /// What the pod cannot do without: the objects, and the version of each that was not enough.
    pub(super) fn missing(&self) -> BTreeMap<ObjectRef, Option<String>> {
        let mandatory = self.lacks.iter().filter(|lack| !lack.optional);
        mandatory.map(|lack| (lack.object.clone(), self.version(&lack.object))).collect()
    }

    fn version(&self, object: &ObjectRef) -> Option<String> {
        self.snapshot.objects.get(object)?.object.as_ref()?.version.clone()
    }

    /// Which containers wait for what. None do as long as a volume is missing: a kubelet mounts volumes
    /// before it looks at any container, and all of them are `ContainerCreating` until then.
    pub(super) fn waiting(&self) -> BTreeMap<String, WaitingFor> {
        let mut all = BTreeMap::new();
        if self.volume_missing() {
            return all;
        }
        for lack in self.lacks.iter().filter(|lack| !lack.optional) {
            if let Place::Container(name) = &lack.place {
                let reason = "CreateContainerConfigError".to_owned();
                all.entry(name.clone()).or_insert_with(|| WaitingFor { reason, message: lack.message() });
            }
        }
        for (name, message) in &self.unstartable {
            let (reason, message) = ("CreateContainerConfigError".to_owned(), message.clone());
            all.entry(name.clone()).or_insert(WaitingFor { reason, message });
        }
        all
    }

    /// Whether no container can be started.
    pub(super) fn volume_missing(&self) -> bool {
        self.lacks.iter().any(|lack| !lack.optional && matches!(lack.place, Place::Volume(_)))
    }

    /// The events that tell of it: the Go Virtual Kubelet's for each object and key, a kubelet's for each
    /// volume, or else for each container, that waits.
    pub(super) fn events(&self) -> Vec<PodEventRecord> {
        let mut all: Vec<_> = self.lacks.iter().filter_map(Lack::event).collect();
        for (field, instead) in &self.late_bound {
            let text = format!("{field} is not known before the containers start: the pod got {instead}");
            all.push(PodEventRecord::new(Reason::LateBoundField, text));
        }
        for lack in self.lacks.iter().filter(|lack| !lack.optional) {
            if let Place::Volume(name) = &lack.place {
                let text = format!("MountVolume.SetUp failed for volume {name:?} : {}", lack.message());
                all.push(PodEventRecord::new(Reason::FailedMount, text));
            }
        }
        for (container, waits) in self.waiting() {
            let text = format!("Error: {}", waits.message);
            all.push(PodEventRecord::new(Reason::Failed, text).about(container));
        }
        for (object, names) in &self.invalid_names {
            let mut names = names.clone();
            names.sort_unstable();
            names.dedup();
            let text = format!(
                "keys [{}] from {} {}/{} were skipped since they are invalid as environment variable names",
                names.join(", "),
                object.kind.lower(),
                object.namespace,
                object.name,
            );
            all.push(PodEventRecord::new(Reason::InvalidEnvironmentVariableNames, text));
        }
        all
    }
}

impl Lack {
    /// What a kubelet says (oracle cases config-env-* and volume-*-missing).
    fn message(&self) -> String {
        let ObjectRef { kind, namespace, name } = &self.object;
        match (&self.what, &self.place) {
            (What::Absent, _) => format!("{} {name:?} not found", kind.lower()),
            (What::Key(key), Place::Container(_)) => {
                format!("couldn't find key {key} in {} {namespace}/{name}", kind.name())
            }
            (What::Key(key), _) => match kind {
                ObjectKind::ConfigMap => format!("configmap references non-existent config key: {key}"),
                _ => format!("references non-existent {} key: {key}", kind.lower()),
            },
            (What::Unbound, _) => format!("{} {name:?} is not bound", kind.lower()),
            (What::NotText(key), _) => {
                format!("the value of key {key} in {} {namespace}/{name} is not UTF-8 text", kind.name())
            }
        }
    }

    /// The Go Virtual Kubelet's event, for the kinds that it knows.
    fn event(&self) -> Option<PodEventRecord> {
        let ObjectRef { kind, name, .. } = &self.object;
        if self.place == Place::Pull {
            return None;
        }
        let reason = match (kind, &self.what, self.optional) {
            (ObjectKind::ConfigMap, What::Absent, true) => Reason::OptionalConfigMapNotFound,
            (ObjectKind::ConfigMap, What::Absent, false) => Reason::MandatoryConfigMapNotFound,
            (ObjectKind::ConfigMap, What::Key(_), true) => Reason::OptionalConfigMapKeyNotFound,
            (ObjectKind::ConfigMap, What::Key(_), false) => Reason::MandatoryConfigMapKeyNotFound,
            (ObjectKind::ConfigMap, _, true) => Reason::FailedToReadOptionalConfigMap,
            (ObjectKind::ConfigMap, _, false) => Reason::FailedToReadMandatoryConfigMap,
            (ObjectKind::Secret, What::Absent, true) => Reason::OptionalSecretNotFound,
            (ObjectKind::Secret, What::Absent, false) => Reason::MandatorySecretNotFound,
            (ObjectKind::Secret, What::Key(_), true) => Reason::OptionalSecretKeyNotFound,
            (ObjectKind::Secret, What::Key(_), false) => Reason::MandatorySecretKeyNotFound,
            (ObjectKind::Secret, _, true) => Reason::FailedToReadOptionalSecret,
            (ObjectKind::Secret, _, false) => Reason::FailedToReadMandatorySecret,
            _ => return None,
        };
        let text = match &self.what {
            What::Key(key) => format!("key {key:?} not found in {} {name:?}", kind.lower()),
            What::NotText(key) => format!("key {key:?} of {} {name:?} is not UTF-8 text", kind.lower()),
            What::Absent | What::Unbound => format!("{} {name:?} not found", kind.lower()),
        };
        Some(PodEventRecord::new(reason, text))
    }
}

/// The event about an object that could not be read.
pub(super) fn unreadable(object: &ObjectRef, optional: bool) -> PodEventRecord {
    let reason = match (object.kind, optional) {
        (ObjectKind::ConfigMap, true) => Reason::FailedToReadOptionalConfigMap,
        (ObjectKind::ConfigMap, false) => Reason::FailedToReadMandatoryConfigMap,
        (ObjectKind::Secret, true) => Reason::FailedToReadOptionalSecret,
        (ObjectKind::Secret, false) => Reason::FailedToReadMandatorySecret,
        (ObjectKind::Service | ObjectKind::Services, _) => Reason::Failed,
        _ => Reason::FailedMount,
    };
    PodEventRecord::new(reason, format!("failed to read {} {:?}", object.kind.lower(), &*object.name))
}
