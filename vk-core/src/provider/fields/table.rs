//! The table: every field of a pod's specification, and whose it is to honour.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::super::Feature;

/// A field of `spec`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Field {
    /// As `kubectl explain` names it, with `[]` for "each of them": `spec.containers[].securityContext.privileged`.
    pub path: String,
    /// Whose it is to honour.
    pub owner: Owner,
    /// Values that ask for nothing: what the API server writes by itself, and what is so anyway.
    pub(super) idle: &'static [&'static str],
    /// Everything below it belongs to it and is not listed on its own.
    pub(super) whole: bool,
    /// What is left out with it, where a policy says that it is passed over.
    pub(super) unit: Unit,
}

/// Whose a field is to honour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owner {
    /// The API server's, the scheduler's or a controller's: a node has nothing to do with it.
    ControlPlane,
    /// The node's, on every backend.
    Node,
    /// The backend's, on every backend.
    Backend,
    /// The backend's where it takes whole pods, [`PodRunner`](crate::containers::PodRunner)'s where it only runs
    /// containers.
    Runner,
    /// As [`Runner`](Self::Runner); a backend of whole pods has said whether it does it by its
    /// [features](super::super::Provider::native), unless it says it again, more precisely.
    Feature(Feature),
    /// The backend's where it takes whole pods. `PodRunner` does not do it.
    PodsOnly,
    /// Nobody's: the node refuses it, and why.
    Nobody(&'static str),
}

/// What is left out of a pod when a field is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// The field itself.
    Itself,
    /// The object that it is in, which is nothing without it.
    Parent,
    /// A volume, and where it is mounted.
    Volume,
}

use self::Owner::{Backend, ControlPlane, Nobody, Node, PodsOnly, Runner};

/// The kinds of containers.
pub(super) const KINDS: [&str; 3] =
    ["spec.containers[]", "spec.initContainers[]", "spec.ephemeralContainers[]"];

const OWNERS_OF_FILES: Owner = Nobody("files are handed over without an owner; use fsGroup, or mode");

const INIT: Owner = Owner::Feature(Feature::InitOrder);
const FILES: Owner = Owner::Feature(Feature::Files);
const MESSAGES: Owner = Owner::Feature(Feature::TerminationMessages);

type Row = (&'static str, Owner, &'static [&'static str]);

/// Of the pod itself.
const POD: &[Row] = &[
    ("activeDeadlineSeconds", Owner::Feature(Feature::ActiveDeadline), &[]),
    ("affinity..", ControlPlane, &[]),
    ("automountServiceAccountToken", ControlPlane, &[]),
    ("dnsConfig.nameservers", Backend, &[]),
    ("dnsConfig.options[].name", Backend, &[]),
    ("dnsConfig.options[].value", Backend, &[]),
    ("dnsConfig.searches", Backend, &[]),
    ("dnsPolicy", Backend, &["ClusterFirst"]),
    ("enableServiceLinks", Node, &[]),
    ("evictionResponders..", ControlPlane, &[]),
    ("hostAliases[].hostnames", Backend, &[]),
    ("hostAliases[].ip", Backend, &[]),
    ("hostIPC", Backend, &["false"]),
    ("hostNetwork", Backend, &["false"]),
    ("hostPID", Backend, &["false"]),
    ("hostUsers", Backend, &["true"]),
    ("hostname", Backend, &[]),
    ("hostnameOverride", Backend, &[]),
    ("imagePullSecrets[].name", Backend, &[]),
    ("initContainers", INIT, &[]),
    ("nodeName", ControlPlane, &[]),
    ("nodeSelector", ControlPlane, &[]),
    ("os.name", Node, &[]),
    ("overhead", ControlPlane, &[]),
    ("preemptionPolicy", ControlPlane, &[]),
    ("priority", ControlPlane, &[]),
    ("priorityClassName", ControlPlane, &[]),
    ("readinessGates[].conditionType", Node, &[]),
    ("resourceClaims..", Backend, &[]),
    ("resources.claims..", Backend, &[]),
    ("resources.limits", Backend, &[]),
    ("resources.requests", Backend, &[]),
    // A backend that restarts nothing does what `Never` says. `Always` is written by the API server.
    ("restartPolicy", Owner::Feature(Feature::Restarts), &["Always", "Never"]),
    ("runtimeClassName", Backend, &[]),
    ("schedulerName", ControlPlane, &[]),
    ("schedulingGates..", ControlPlane, &[]),
    ("schedulingGroup..", ControlPlane, &[]),
    ("securityContext.fsGroup", Backend, &[]),
    // When owners are changed, not whether.
    ("securityContext.fsGroupChangePolicy", Backend, &["Always", "OnRootMismatch"]),
    ("securityContext.runAsGroup", Backend, &[]),
    ("securityContext.runAsNonRoot", Runner, &["false"]),
    ("securityContext.runAsUser", Backend, &[]),
    // Nothing without seLinuxOptions.
    ("securityContext.seLinuxChangePolicy", Backend, &["MountOption", "Recursive"]),
    ("securityContext.supplementalGroups", Backend, &[]),
    ("securityContext.supplementalGroupsPolicy", Backend, &["Merge"]),
    ("securityContext.sysctls..", Backend, &[]),
    ("serviceAccount", ControlPlane, &[]),
    ("serviceAccountName", Node, &[]),
    ("setHostnameAsFQDN", Backend, &["false"]),
    ("shareProcessNamespace", Backend, &["false"]),
    ("subdomain", Backend, &[]),
    ("terminationGracePeriodSeconds", Node, &[]),
    ("tolerations..", ControlPlane, &[]),
    ("topologySpreadConstraints..", ControlPlane, &[]),
];

/// Of the security contexts of pods and of containers.
const SECURITY: &[Row] = &[
    ("appArmorProfile.localhostProfile", Backend, &[]),
    ("appArmorProfile.type", Backend, &["Unconfined"]),
    ("seLinuxOptions.level", Backend, &[]),
    ("seLinuxOptions.role", Backend, &[]),
    ("seLinuxOptions.type", Backend, &[]),
    ("seLinuxOptions.user", Backend, &[]),
    ("seccompProfile.localhostProfile", Backend, &[]),
    ("seccompProfile.type", Backend, &["Unconfined"]),
    ("windowsOptions.gmsaCredentialSpec", Backend, &[]),
    ("windowsOptions.gmsaCredentialSpecName", Backend, &[]),
    ("windowsOptions.hostProcess", Backend, &["false"]),
    ("windowsOptions.runAsUserName", Backend, &[]),
];

/// Of containers of every kind.
const CONTAINER: &[Row] = &[
    ("args", Backend, &[]),
    ("command", Backend, &[]),
    ("env[].name", Backend, &[]),
    ("env[].value", Backend, &[]),
    ("env[].valueFrom.configMapKeyRef.key", Node, &[]),
    ("env[].valueFrom.configMapKeyRef.name", Node, &[]),
    ("env[].valueFrom.configMapKeyRef.optional", Node, &[]),
    ("env[].valueFrom.fieldRef.apiVersion", Node, &[]),
    ("env[].valueFrom.fieldRef.fieldPath", Node, &[]),
    // Known when the container starts and not before.
    ("env[].valueFrom.fileKeyRef.key", Runner, &[]),
    ("env[].valueFrom.fileKeyRef.optional", Runner, &["false"]),
    ("env[].valueFrom.fileKeyRef.path", Runner, &[]),
    ("env[].valueFrom.fileKeyRef.volumeName", Runner, &[]),
    ("env[].valueFrom.resourceFieldRef.containerName", Node, &[]),
    ("env[].valueFrom.resourceFieldRef.divisor", Node, &[]),
    ("env[].valueFrom.resourceFieldRef.resource", Node, &[]),
    ("env[].valueFrom.secretKeyRef.key", Node, &[]),
    ("env[].valueFrom.secretKeyRef.name", Node, &[]),
    ("env[].valueFrom.secretKeyRef.optional", Node, &[]),
    ("envFrom[].configMapRef.name", Node, &[]),
    ("envFrom[].configMapRef.optional", Node, &[]),
    ("envFrom[].prefix", Node, &[]),
    ("envFrom[].secretRef.name", Node, &[]),
    ("envFrom[].secretRef.optional", Node, &[]),
    ("image", Backend, &[]),
    // The API server writes one of the two, by the image's tag.
    ("imagePullPolicy", Runner, &["Always", "IfNotPresent"]),
    ("name", Node, &[]),
    // What is so without saying it.
    ("securityContext.allowPrivilegeEscalation", Backend, &["true"]),
    ("securityContext.capabilities.add", Backend, &[]),
    ("securityContext.capabilities.drop", Backend, &[]),
    ("securityContext.privileged", Backend, &["false"]),
    ("securityContext.procMount", Backend, &["Default"]),
    ("securityContext.readOnlyRootFilesystem", Backend, &["false"]),
    ("securityContext.runAsGroup", Backend, &[]),
    ("securityContext.runAsNonRoot", Runner, &["false"]),
    ("securityContext.runAsUser", Backend, &[]),
    ("stdin", Backend, &["false"]),
    ("stdinOnce", Backend, &["false"]),
    ("terminationMessagePath", MESSAGES, &["/dev/termination-log"]),
    ("terminationMessagePolicy", MESSAGES, &["File"]),
    ("tty", Backend, &["false"]),
    ("volumeDevices[].devicePath", Backend, &[]),
    ("volumeDevices[].name", Backend, &[]),
    ("volumeMounts[].bindMountOptions", Backend, &[]),
    ("volumeMounts[].mountPath", Backend, &[]),
    ("volumeMounts[].mountPropagation", Backend, &["None"]),
    ("volumeMounts[].name", Backend, &[]),
    ("volumeMounts[].readOnly", Backend, &["false"]),
    // "If possible" leaves it to the backend.
    ("volumeMounts[].recursiveReadOnly", Backend, &["Disabled", "IfPossible"]),
    ("volumeMounts[].subPath", Backend, &[]),
    ("volumeMounts[].subPathExpr", Backend, &[]),
    ("workingDir", Backend, &[]),
];

/// Of containers that start with the pod. The API server takes none of them for ephemeral containers.
const MEMBER: &[Row] = &[
    ("lifecycle.stopSignal", Backend, &[]),
    // A note to the reader; Services find ports without it.
    ("ports[].containerPort", Node, &[]),
    ("ports[].hostIP", Backend, &["0.0.0.0", "::"]),
    ("ports[].hostPort", Backend, &["0"]),
    ("ports[].name", Node, &[]),
    ("ports[].protocol", Backend, &["TCP"]),
    ("resizePolicy[].resourceName", Node, &[]),
    ("resizePolicy[].restartPolicy", PodsOnly, &["NotRequired"]),
    ("resources.claims..", Backend, &[]),
    ("resources.limits", Backend, &[]),
    ("resources.requests", Backend, &[]),
    ("restartPolicyRules[].action", Runner, &[]),
    ("restartPolicyRules[].exitCodes.operator", Runner, &[]),
    ("restartPolicyRules[].exitCodes.values", Runner, &[]),
];

/// What the API server does not take for ephemeral containers.
const NOT_EPHEMERAL: [&str; 9] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "startupProbe",
];

const PROBES: [(&str, Feature); 3] = [
    ("livenessProbe", Feature::LivenessProbes),
    ("readinessProbe", Feature::ReadinessProbes),
    ("startupProbe", Feature::StartupProbes),
];

const HOOKS: [(&str, Feature); 2] = [("postStart", Feature::PostStart), ("preStop", Feature::PreStop)];

/// Of every probe, and how often it is done: a backend that does it does it so.
const PROBE: &[(&str, &[&str])] = &[
    ("failureThreshold", &["3"]),
    ("grpc.port", &[]),
    ("grpc.service", &[]),
    ("initialDelaySeconds", &["0"]),
    ("periodSeconds", &["10"]),
    ("successThreshold", &["1"]),
    ("terminationGracePeriodSeconds", &[]),
    ("timeoutSeconds", &["1"]),
];

/// Of hooks.
const HOOK: &[(&str, &[&str])] = &[("sleep.seconds", &[])];

/// Of probes and hooks.
const HANDLER: &[(&str, &[&str])] = &[
    ("exec.command", &[]),
    ("httpGet.host", &[]),
    ("httpGet.httpHeaders[].name", &[]),
    ("httpGet.httpHeaders[].value", &[]),
    ("httpGet.path", &[]),
    ("httpGet.port", &[]),
    ("httpGet.scheme", &["HTTP"]),
    ("tcpSocket.host", &[]),
    ("tcpSocket.port", &[]),
];

/// Of volumes whose files come from the API server.
const CONTENTS: &[Row] = &[
    ("configMap", FILES, &[]),
    ("configMap.defaultMode", FILES, &["420"]),
    ("configMap.defaultUser", OWNERS_OF_FILES, &[]),
    ("configMap.items[].key", Node, &[]),
    ("configMap.items[].mode", FILES, &[]),
    ("configMap.items[].path", FILES, &[]),
    ("configMap.items[].user", OWNERS_OF_FILES, &[]),
    ("configMap.name", Node, &[]),
    ("configMap.optional", Node, &[]),
    ("downwardAPI", FILES, &[]),
    ("downwardAPI.defaultMode", FILES, &["420"]),
    ("downwardAPI.defaultUser", OWNERS_OF_FILES, &[]),
    ("downwardAPI.items[].fieldRef.apiVersion", Node, &[]),
    ("downwardAPI.items[].fieldRef.fieldPath", Node, &[]),
    ("downwardAPI.items[].mode", FILES, &[]),
    ("downwardAPI.items[].path", FILES, &[]),
    ("downwardAPI.items[].resourceFieldRef.containerName", Node, &[]),
    ("downwardAPI.items[].resourceFieldRef.divisor", Node, &[]),
    ("downwardAPI.items[].resourceFieldRef.resource", Node, &[]),
    ("downwardAPI.items[].user", OWNERS_OF_FILES, &[]),
    ("projected", FILES, &[]),
    ("projected.defaultMode", FILES, &["420"]),
    ("projected.defaultUser", OWNERS_OF_FILES, &[]),
    ("projected.sources[].clusterTrustBundle", FILES, &[]),
    ("projected.sources[].clusterTrustBundle.labelSelector..", Node, &[]),
    ("projected.sources[].clusterTrustBundle.name", Node, &[]),
    ("projected.sources[].clusterTrustBundle.optional", Node, &[]),
    ("projected.sources[].clusterTrustBundle.path", FILES, &[]),
    ("projected.sources[].clusterTrustBundle.signerName", Node, &[]),
    ("projected.sources[].clusterTrustBundle.user", OWNERS_OF_FILES, &[]),
    ("projected.sources[].configMap", FILES, &[]),
    ("projected.sources[].configMap.items[].key", Node, &[]),
    ("projected.sources[].configMap.items[].mode", FILES, &[]),
    ("projected.sources[].configMap.items[].path", FILES, &[]),
    ("projected.sources[].configMap.items[].user", OWNERS_OF_FILES, &[]),
    ("projected.sources[].configMap.name", Node, &[]),
    ("projected.sources[].configMap.optional", Node, &[]),
    ("projected.sources[].downwardAPI", FILES, &[]),
    ("projected.sources[].downwardAPI.items[].fieldRef.apiVersion", Node, &[]),
    ("projected.sources[].downwardAPI.items[].fieldRef.fieldPath", Node, &[]),
    ("projected.sources[].downwardAPI.items[].mode", FILES, &[]),
    ("projected.sources[].downwardAPI.items[].path", FILES, &[]),
    ("projected.sources[].downwardAPI.items[].resourceFieldRef.containerName", Node, &[]),
    ("projected.sources[].downwardAPI.items[].resourceFieldRef.divisor", Node, &[]),
    ("projected.sources[].downwardAPI.items[].resourceFieldRef.resource", Node, &[]),
    ("projected.sources[].downwardAPI.items[].user", OWNERS_OF_FILES, &[]),
    // The node asks for no certificates: a volume with one is the backend's as a whole.
    ("projected.sources[].podCertificate..", Backend, &[]),
    ("projected.sources[].secret", FILES, &[]),
    ("projected.sources[].secret.items[].key", Node, &[]),
    ("projected.sources[].secret.items[].mode", FILES, &[]),
    ("projected.sources[].secret.items[].path", FILES, &[]),
    ("projected.sources[].secret.items[].user", OWNERS_OF_FILES, &[]),
    ("projected.sources[].secret.name", Node, &[]),
    ("projected.sources[].secret.optional", Node, &[]),
    ("projected.sources[].serviceAccountToken", FILES, &[]),
    ("projected.sources[].serviceAccountToken.audience", Node, &[]),
    ("projected.sources[].serviceAccountToken.expirationSeconds", Node, &[]),
    ("projected.sources[].serviceAccountToken.path", FILES, &[]),
    ("projected.sources[].serviceAccountToken.user", OWNERS_OF_FILES, &[]),
    ("secret", FILES, &[]),
    ("secret.defaultMode", FILES, &["420"]),
    ("secret.defaultUser", OWNERS_OF_FILES, &[]),
    ("secret.items[].key", Node, &[]),
    ("secret.items[].mode", FILES, &[]),
    ("secret.items[].path", FILES, &[]),
    ("secret.items[].user", OWNERS_OF_FILES, &[]),
    ("secret.optional", Node, &[]),
    ("secret.secretName", Node, &[]),
];

/// Of other volumes.
const VOLUME: &[Row] = &[
    ("name", Node, &[]),
    ("awsElasticBlockStore..", Backend, &[]),
    ("azureDisk..", Backend, &[]),
    ("azureFile..", Backend, &[]),
    ("cephfs..", Backend, &[]),
    ("cinder..", Backend, &[]),
    ("csi..", Backend, &[]),
    ("emptyDir", Backend, &[]),
    ("emptyDir.medium", Backend, &[]),
    ("emptyDir.mode", Backend, &[]),
    // The node measures, and evicts.
    ("emptyDir.sizeLimit", Runner, &["0"]),
    ("ephemeral..", Backend, &[]),
    ("fc..", Backend, &[]),
    ("flexVolume..", Backend, &[]),
    ("flocker..", Backend, &[]),
    ("gcePersistentDisk..", Backend, &[]),
    ("gitRepo..", Backend, &[]),
    ("glusterfs..", Backend, &[]),
    ("hostPath", Backend, &[]),
    ("hostPath.path", Backend, &[]),
    ("hostPath.type", Backend, &[]),
    ("image", Backend, &[]),
    ("image.pullPolicy", Backend, &["Always", "IfNotPresent"]),
    ("image.reference", Backend, &[]),
    ("iscsi..", Backend, &[]),
    ("nfs..", Backend, &[]),
    ("persistentVolumeClaim..", Backend, &[]),
    ("photonPersistentDisk..", Backend, &[]),
    ("portworxVolume..", Backend, &[]),
    ("quobyte..", Backend, &[]),
    ("rbd..", Backend, &[]),
    ("scaleIO..", Backend, &[]),
    ("storageos..", Backend, &[]),
    ("vsphereVolume..", Backend, &[]),
];

/// The table, with a way into it by the parts of a path.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) fields: Vec<Field>,
    pub(super) root: Part,
}

/// A part of a path, such as `securityContext`.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The field that ends here.
    pub(super) field: Option<usize>,
    /// What is below it, if it is an object.
    pub(super) below: HashMap<String, Self>,
    /// What is below each of its elements, if it is a list.
    pub(super) each: Option<Box<Self>>,
}

/// The table, made once.
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

impl Table {
    fn new() -> Self {
        let mut table = Self::default();
        table.rows("spec", POD);
        table.rows("spec.securityContext", SECURITY);
        for kind in KINDS {
            table.rows(kind, CONTAINER);
            table.rows(&format!("{kind}.securityContext"), SECURITY);
        }
        for kind in &KINDS[..2] {
            table.member(kind);
        }
        table.row("spec.containers[].restartPolicy", Runner, &[]);
        // `Always` makes a sidecar.
        table.row("spec.initContainers[].restartPolicy", Owner::Feature(Feature::Sidecars), &[]);
        table.row("spec.ephemeralContainers[].targetContainerName", Backend, &[]);
        for name in NOT_EPHEMERAL {
            table.row(&format!("{}.{name}..", KINDS[2]), ControlPlane, &[]);
        }
        table.rows("spec.volumes[]", CONTENTS);
        table.rows("spec.volumes[]", VOLUME);
        table.fields.sort_by(|a, b| a.path.cmp(&b.path));
        table.link();
        table
    }

    /// Probes and hooks of containers of a kind, and the rest that ephemeral ones have not.
    fn member(&mut self, kind: &str) {
        self.rows(kind, MEMBER);
        for (probe, feature) in PROBES {
            let (path, owner) = (format!("{kind}.{probe}"), Owner::Feature(feature));
            self.row(&path, owner, &[]);
            for (name, idle) in PROBE.iter().chain(HANDLER) {
                self.row(&format!("{path}.{name}"), owner, idle);
            }
            for handler in ["exec", "grpc", "httpGet", "tcpSocket"] {
                self.row(&format!("{path}.{handler}"), owner, &[]);
            }
            self.row(&format!("{path}.grpc.mode"), PodsOnly, &["Plaintext"]);
            self.row(&format!("{path}.httpGet.protocol"), PodsOnly, &["HTTP1"]);
        }
        for (hook, feature) in HOOKS {
            let (path, owner) = (format!("{kind}.lifecycle.{hook}"), Owner::Feature(feature));
            self.row(&path, owner, &[]);
            for (name, idle) in HOOK.iter().chain(HANDLER) {
                self.row(&format!("{path}.{name}"), owner, idle);
            }
            for handler in ["exec", "httpGet", "sleep", "tcpSocket"] {
                self.row(&format!("{path}.{handler}"), owner, &[]);
            }
            self.row(&format!("{path}.httpGet.protocol"), PodsOnly, &["HTTP1"]);
        }
    }

    fn rows(&mut self, below: &str, rows: &[Row]) {
        for (name, owner, idle) in rows {
            self.row(&format!("{below}.{name}"), *owner, idle);
        }
    }

    /// Adds a field; two dots at its end take in everything below.
    fn row(&mut self, path: &str, owner: Owner, idle: &'static [&'static str]) {
        let (path, whole) = path.strip_suffix("..").map_or((path, false), |path| (path, true));
        self.fields.push(Field { path: path.to_owned(), owner, idle, whole, unit: unit(path) });
    }

    fn link(&mut self) {
        let mut root = Part::default();
        for (index, field) in self.fields.iter().enumerate() {
            let mut part = &mut root;
            for name in field.path.split('.') {
                let list = name.strip_suffix("[]");
                part = part.below.entry(list.unwrap_or(name).to_owned()).or_default();
                if list.is_some() {
                    part = part.each.get_or_insert_default();
                }
            }
            part.field = Some(index);
        }
        self.root = root;
    }

    /// The fields at a path and below it.
    pub(super) fn at(&self, path: &str) -> impl Iterator<Item = usize> {
        let is_at = move |field: &Field| {
            field.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.fields.iter().enumerate().filter(move |(_, field)| is_at(field)).map(|(index, _)| index)
    }

    pub(super) fn index(&self, path: &str) -> Option<usize> {
        self.fields.binary_search_by(|field| field.path.as_str().cmp(path)).ok()
    }
}

/// What has to go with a field.
fn unit(path: &str) -> Unit {
    let Some((parent, name)) = path.rsplit_once('.') else { return Unit::Itself };
    let handler = matches!(name, "exec" | "grpc" | "httpGet" | "sleep" | "tcpSocket");
    // What a handler or a profile cannot be without.
    let heart = (handler && !parent.ends_with("[]"))
        || (parent.ends_with("Profile") && name == "type")
        || parent.ends_with("sources[]");
    match parent {
        "spec.volumes[]" if name != "name" => Unit::Volume,
        _ if heart => Unit::Parent,
        _ => Unit::Itself,
    }
}
