//! Volumes whose files come from the API: ConfigMap, Secret, downward API, tokens, trust bundles, and projections
//! of these; and claims, which lead to a volume.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, KeyToPath, PersistentVolumeClaimVolumeSource,
    PodSpec, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::ResolveError;
use super::fields::Context;
use super::findings::{Findings, Place, What};
use super::object::{BUNDLE, Detail, ObjectKind, ObjectRef};
use super::tokens::TokenAsk;
use crate::provider::{ClaimedVolume, EmptyDir, File, ResolvedVolume, VolumeContent};

/// The permissions of a file for which the pod asks no others.
const DEFAULT_MODE: u32 = 0o644;
/// The permissions of a token in a pod whose user or group is known (`pkg/volume/projected`).
const TOKEN_MODE: u32 = 0o600;
/// The life of a token for which the pod asks no other, in seconds.
const TOKEN_LIFE: i64 = 3600;
/// How many bytes the files of a pod's volumes may have together. An object has at most 1 MiB; but nothing
/// limits how many of them a pod projects.
const BUDGET: usize = 64 << 20;

/// The pod's volumes, as far as the objects they refer to are there.
///
/// A volume that no container mounts is left out, as a kubelet does: nothing waits for what it refers to.
pub(super) fn resolve(
    context: &Context<'_>,
    findings: &mut Findings<'_>,
) -> Result<Vec<ResolvedVolume>, ResolveError> {
    let mounted = mounted(context.spec);
    let mut budget = BUDGET;
    let volumes = context.spec.volumes.iter().flatten().enumerate();
    volumes
        .filter(|(_, volume)| mounted.contains(volume.name.as_str()))
        .map(|(i, volume)| {
            let place = Place::Volume(volume.name.clone());
            let mut files = FileSet {
                context,
                findings,
                place,
                path: format!("spec.volumes[{i}]"),
                default_mode: DEFAULT_MODE,
                files: BTreeMap::new(),
                budget: &mut budget,
            };
            Ok(ResolvedVolume::new(volume.name.clone(), content(&mut files, volume)?))
        })
        .collect()
}

/// Names of the volumes that containers mount or use as devices.
fn mounted(spec: &PodSpec) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in containers {
        names.extend(container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()));
        names.extend(container.volume_devices.iter().flatten().map(|device| device.name.as_str()));
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        names.extend(container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()));
        names.extend(container.volume_devices.iter().flatten().map(|device| device.name.as_str()));
    }
    names
}

fn content(files: &mut FileSet<'_, '_>, volume: &Volume) -> Result<VolumeContent, ResolveError> {
    if let Some(source) = &volume.config_map {
        files.defaults("configMap", source.default_mode, source.default_user)?;
        let optional = source.optional == Some(true);
        let items = source.items.as_deref();
        files.take_object("configMap", ObjectKind::ConfigMap, &source.name, items, optional)?;
    } else if let Some(source) = &volume.secret {
        files.defaults("secret", source.default_mode, source.default_user)?;
        let optional = source.optional == Some(true);
        let name = source.secret_name.as_deref().unwrap_or_default();
        files.take_object("secret", ObjectKind::Secret, name, source.items.as_deref(), optional)?;
    } else if let Some(source) = &volume.downward_api {
        files.defaults("downwardAPI", source.default_mode, None)?;
        files.take_fields("downwardAPI", source.items.as_deref().unwrap_or_default())?;
    } else if let Some(source) =
        volume.projected.as_ref().filter(|source| is_resolved_here(files.context, source))
    {
        files.defaults("projected", source.default_mode, source.default_user)?;
        for (i, projection) in source.sources.iter().flatten().enumerate() {
            files.take_projection(&format!("projected.sources[{i}]"), projection)?;
        }
    } else if let Some(source) = &volume.persistent_volume_claim {
        return Ok(files.take_claim(source));
    } else if volume.ephemeral.is_some() {
        // Its claim is made by a controller, under this name.
        let pod = files.context.pod.metadata.name.as_deref().unwrap_or_default();
        let claim_name = format!("{pod}-{}", volume.name);
        return Ok(files.take_claim(&PersistentVolumeClaimVolumeSource { claim_name, read_only: None }));
    } else if let Some(source) = &volume.empty_dir {
        return Ok(VolumeContent::EmptyDir(EmptyDir {
            memory: source.medium.as_deref() == Some("Memory"),
            size_limit: source.size_limit.clone(),
        }));
    } else {
        return Ok(VolumeContent::Native);
    }
    files.check_nesting()?;
    Ok(VolumeContent::Files(std::mem::take(&mut files.files).into_values().collect()))
}

/// Whether everything projected is read here. A volume with a pod certificate is the backend's as a whole, and
/// so is one with a token where the backend has no use for tokens: nothing else it refers to is read then.
fn is_resolved_here(context: &Context<'_>, source: &ProjectedVolumeSource) -> bool {
    source.sources.iter().flatten().all(|projection| {
        projection.config_map.is_some()
            || projection.secret.is_some()
            || projection.downward_api.is_some()
            || (context.options.tokens && projection.service_account_token.is_some())
            || projection.cluster_trust_bundle.is_some()
    })
}

/// The files of one volume in the making.
struct FileSet<'f, 'a> {
    context: &'f Context<'f>,
    findings: &'f mut Findings<'a>,
    place: Place,
    /// Where the volume stands in the pod.
    path: String,
    default_mode: u32,
    /// By path; later ones win, as in a kubelet.
    files: BTreeMap<String, File>,
    budget: &'f mut usize,
}

impl FileSet<'_, '_> {
    fn defaults(&mut self, source: &str, mode: Option<i32>, user: Option<i64>) -> Result<(), ResolveError> {
        self.owner(&format!("{source}.defaultUser"), user)?;
        self.default_mode = self.mode(&format!("{source}.defaultMode"), mode)?.unwrap_or(DEFAULT_MODE);
        Ok(())
    }

    fn take_projection(&mut self, field: &str, projection: &VolumeProjection) -> Result<(), ResolveError> {
        if let Some(map) = &projection.config_map {
            let optional = map.optional == Some(true);
            let field = format!("{field}.configMap");
            self.take_object(&field, ObjectKind::ConfigMap, &map.name, map.items.as_deref(), optional)
        } else if let Some(secret) = &projection.secret {
            let optional = secret.optional == Some(true);
            let field = format!("{field}.secret");
            self.take_object(&field, ObjectKind::Secret, &secret.name, secret.items.as_deref(), optional)
        } else if let Some(token) = &projection.service_account_token {
            self.take_token(&format!("{field}.serviceAccountToken"), token)
        } else if let Some(bundle) = &projection.cluster_trust_bundle {
            self.take_bundle(&format!("{field}.clusterTrustBundle"), bundle)
        } else {
            let fields = projection.downward_api.as_ref().and_then(|source| source.items.as_deref());
            self.take_fields(&format!("{field}.downwardAPI"), fields.unwrap_or_default())
        }
    }

    /// The named keys of an object, or all of them.
    fn take_object(
        &mut self,
        field: &str,
        kind: ObjectKind,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), ResolveError> {
        let items = items.unwrap_or_default();
        // What the pod says is checked first: it is wrong whether or not the object is there.
        let mut targets = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let field = format!("{field}.items[{i}]");
            self.owner(&format!("{field}.user"), item.user)?;
            let mode = self.mode(&format!("{field}.mode"), item.mode)?.unwrap_or(self.default_mode);
            targets.push((&item.key, self.relative(&format!("{field}.path"), &item.path)?, mode));
        }
        let wanted = ObjectRef { kind, namespace: self.context.namespace.into(), name: name.into() };
        self.findings.files_from.insert(wanted.clone());
        let Some(object) = self.findings.object(&wanted, optional, &self.place) else { return Ok(()) };
        let secret = kind == ObjectKind::Secret;
        if items.is_empty() {
            for (key, bytes) in object.files() {
                let path = self.relative(&format!("{field} ({wanted}, key {key:?})"), key)?;
                self.put(path, self.default_mode, bytes.clone(), secret)?;
            }
        }
        for (key, path, mode) in targets {
            if let Some(bytes) = object.file(key) {
                self.put(path, mode, bytes.clone(), secret)?;
            } else {
                self.findings.lack(&wanted, What::Key(key.clone()), optional, &self.place);
            }
        }
        Ok(())
    }

    /// Fields and resources of the pod.
    fn take_fields(&mut self, field: &str, items: &[DownwardAPIVolumeFile]) -> Result<(), ResolveError> {
        for (i, item) in items.iter().enumerate() {
            let field = format!("{field}.items[{i}]");
            self.owner(&format!("{field}.user"), item.user)?;
            let mode = self.mode(&format!("{field}.mode"), item.mode)?.unwrap_or(self.default_mode);
            let path = self.relative(&format!("{field}.path"), &item.path)?;
            let (source, text) = match (&item.field_ref, &item.resource_field_ref) {
                (Some(selector), _) => (".fieldRef", self.context.file_field(&selector.field_path)),
                (None, Some(selector)) => (".resourceFieldRef", self.context.resource(None, selector)),
                (None, None) => ("", Err("names neither a field nor a resource".into())),
            };
            let text = text.map_err(|reason| self.invalid(&format!("{field}{source}"), &reason))?;
            self.put(path, mode, Bytes::from(text), false)?;
        }
        Ok(())
    }

    /// A token of the pod's ServiceAccount.
    fn take_token(
        &mut self,
        field: &str,
        source: &ServiceAccountTokenProjection,
    ) -> Result<(), ResolveError> {
        self.owner(&format!("{field}.user"), source.user)?;
        let path = self.relative(&format!("{field}.path"), &source.path)?;
        let spec = self.context.spec;
        let account =
            spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        let ask = TokenAsk {
            account: account.to_owned(),
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(TOKEN_LIFE),
        };
        let owned = spec.security_context.as_ref().is_some_and(|context| context.fs_group.is_some());
        let mode = if owned || one_user(spec).is_some() { TOKEN_MODE } else { self.default_mode };
        if let Some(token) = self.findings.token(ask) {
            self.put(path, mode, token.text.clone(), true)?;
        }
        Ok(())
    }

    fn take_bundle(
        &mut self,
        field: &str,
        source: &ClusterTrustBundleProjection,
    ) -> Result<(), ResolveError> {
        self.owner(&format!("{field}.user"), source.user)?;
        let path = self.relative(&format!("{field}.path"), &source.path)?;
        let optional = source.optional == Some(true);
        let (kind, name) = match (&source.name, &source.signer_name) {
            (Some(name), _) => (ObjectKind::TrustBundle, name.clone()),
            (None, Some(signer)) => {
                // A selector that is not there selects nothing; an empty one selects everything.
                let Some(labels) = &source.label_selector else {
                    let empty = Bytes::new();
                    return if optional {
                        self.put(path, self.default_mode, empty, false)
                    } else {
                        Err(self.invalid(field, "a signer without a labelSelector selects no bundle"))
                    };
                };
                (ObjectKind::TrustBundles, format!("{signer} {}", selector(labels)))
            }
            (None, None) => return Err(self.invalid(field, "names neither a bundle nor a signer")),
        };
        let wanted = ObjectRef { kind, namespace: "".into(), name: name.into() };
        let Some(object) = self.findings.object(&wanted, optional, &self.place) else { return Ok(()) };
        let pem = object.binary.get(BUNDLE).cloned().unwrap_or_default();
        self.put(path, self.default_mode, pem, false)
    }

    /// The volume behind a claim.
    fn take_claim(&mut self, source: &PersistentVolumeClaimVolumeSource) -> VolumeContent {
        let of = |kind, namespace: &str, name: &str| ObjectRef {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        };
        let wanted = of(ObjectKind::Claim, self.context.namespace, &source.claim_name);
        let Some(claim) = self.findings.object(&wanted, false, &self.place) else {
            return VolumeContent::Native;
        };
        let Detail::Claim(Some(name)) = &claim.detail else {
            self.findings.lack(&wanted, What::Unbound, false, &self.place);
            return VolumeContent::Native;
        };
        let wanted = of(ObjectKind::Volume, "", name);
        let Some(volume) = self.findings.object(&wanted, false, &self.place) else {
            return VolumeContent::Native;
        };
        let Detail::Volume(spec) = &volume.detail else { return VolumeContent::Native };
        VolumeContent::Claim(ClaimedVolume {
            claim: source.claim_name.clone(),
            volume: name.clone(),
            read_only: source.read_only == Some(true),
            spec: std::sync::Arc::clone(spec),
        })
    }

    fn put(&mut self, path: String, mode: u32, content: Bytes, secret: bool) -> Result<(), ResolveError> {
        *self.budget = self.budget.checked_sub(content.len()).ok_or_else(|| ResolveError::Invalid {
            field: self.path.clone(),
            reason: format!(
                "the files of the pod's volumes grow beyond {} MiB here; put less of it into one pod",
                BUDGET >> 20
            ),
        })?;
        self.files.insert(path.clone(), File { path, mode, content, secret });
        Ok(())
    }

    /// A path below the volume's root, without `.` and empty parts.
    fn relative(&self, field: &str, path: &str) -> Result<String, ResolveError> {
        let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        // Names that begin with two dots are how a kubelet replaces a volume's files all at once.
        let reserved = parts.first().is_some_and(|part| part.starts_with(".."));
        if path.starts_with('/')
            || path.contains('\0')
            || parts.is_empty()
            || parts.contains(&"..")
            || reserved
        {
            let reason = format!(
                "{path:?} does not stay below the volume's root: use a relative path without \"..\", \
                 whose first part does not begin with \"..\""
            );
            return Err(self.invalid(field, &reason));
        }
        Ok(parts.join("/"))
    }

    fn mode(&self, field: &str, mode: Option<i32>) -> Result<Option<u32>, ResolveError> {
        let Some(mode) = mode else { return Ok(None) };
        match u32::try_from(mode) {
            Ok(mode) if mode <= 0o777 => Ok(Some(mode)),
            _ => Err(self.invalid(field, &format!("{mode} is not between 0 and 0777 (511 in decimal)"))),
        }
    }

    fn owner(&self, field: &str, user: Option<i64>) -> Result<(), ResolveError> {
        if user.is_some() {
            return Err(
                self.invalid(field, "owners of single files are not supported by this node; leave it out")
            );
        }
        Ok(())
    }

    /// Nothing can be both a file and a directory.
    fn check_nesting(&self) -> Result<(), ResolveError> {
        for path in self.files.keys() {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            if let Some(parent) = above.into_iter().find(|parent| self.files.contains_key(*parent)) {
                let reason = format!("{path:?} would be a file inside the file {parent:?}");
                return Err(ResolveError::Invalid { field: self.path.clone(), reason });
            }
        }
        Ok(())
    }

    fn invalid(&self, field: &str, reason: &str) -> ResolveError {
        ResolveError::Invalid { field: format!("{}.{field}", self.path), reason: reason.to_owned() }
    }
}

/// The user that all containers run as, if it is one.
fn one_user(spec: &PodSpec) -> Option<i64> {
    let pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|container| {
            container.security_context.as_ref().and_then(|context| context.run_as_user).or(pod)
        });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

/// A label selector as text.
fn selector(labels: &LabelSelector) -> String {
    let equal = labels.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let rules = labels.match_expressions.iter().flatten().map(|rule| {
        let values = rule.values.as_deref().unwrap_or_default().join(",");
        match rule.operator.as_str() {
            "In" => format!("{} in ({values})", rule.key),
            "NotIn" => format!("{} notin ({values})", rule.key),
            "DoesNotExist" => format!("!{}", rule.key),
            _ => rule.key.clone(),
        }
    });
    equal.chain(rules).collect::<Vec<_>>().join(",")
}
