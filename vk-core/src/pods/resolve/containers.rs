//! Containers with their environment resolved and their command lines expanded.

use std::cell::RefCell;
use std::collections::HashMap;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar as EnvVarSpec, EnvVarSource, PodSpec, VolumeMount};

use super::ResolveError;
use super::expand::expand;
use super::fields::Context;
use super::findings::{Findings, Place, What};
use super::object::{ObjectKind, ObjectRef};
use super::services;
use crate::provider::{ContainerKind, EnvVar, Origin, ResolvedContainer, ResolvedMount, Value};

/// How much environment and command line a pod's containers may have together, in bytes. A Linux process
/// takes 6 MiB at the very most; without a limit, a few lines of `$(A)$(A)` fill any memory.
const BUDGET: usize = 16 << 20;

/// What containers of every kind have in common.
struct Written<'a> {
    /// Where it stands in the pod, such as `spec.containers[0]`.
    path: String,
    name: &'a str,
    kind: ContainerKind,
    image: Option<&'a str>,
    command: &'a [String],
    args: &'a [String],
    env: &'a [EnvVarSpec],
    env_from: &'a [EnvFromSource],
    mounts: &'a [VolumeMount],
}

macro_rules! written {
    ($list:literal, $index:expr, $kind:expr, $container:expr) => {
        Written {
            path: format!(concat!("spec.", $list, "[{}]"), $index),
            name: &$container.name,
            kind: $kind,
            image: $container.image.as_deref(),
            command: $container.command.as_deref().unwrap_or_default(),
            args: $container.args.as_deref().unwrap_or_default(),
            env: $container.env.as_deref().unwrap_or_default(),
            env_from: $container.env_from.as_deref().unwrap_or_default(),
            mounts: $container.volume_mounts.as_deref().unwrap_or_default(),
        }
    };
}

fn written(spec: &PodSpec) -> Vec<Written<'_>> {
    let init = spec.init_containers.iter().flatten().enumerate().map(|(i, c)| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        written!("initContainers", i, if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init }, c)
    });
    let app =
        spec.containers.iter().enumerate().map(|(i, c)| written!("containers", i, ContainerKind::App, c));
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .enumerate()
        .map(|(i, c)| written!("ephemeralContainers", i, ContainerKind::Ephemeral, c));
    init.chain(app).chain(ephemeral).collect()
}

/// All containers of the pod, as far as the objects they refer to are there.
pub(super) fn resolve(
    context: &Context<'_>,
    findings: &mut Findings<'_>,
) -> Result<Vec<ResolvedContainer>, ResolveError> {
    let mut budget = BUDGET;
    let services = services::variables(context.spec, context.namespace, findings);
    let all = written(context.spec);
    all.iter().map(|container| one(context, findings, container, &services, &mut budget)).collect()
}

fn one(
    context: &Context<'_>,
    findings: &mut Findings<'_>,
    container: &Written<'_>,
    services: &[EnvVar],
    budget: &mut usize,
) -> Result<ResolvedContainer, ResolveError> {
    let mut env = Environment { container, services, budget, vars: Vec::new(), index: HashMap::new() };
    env.take_whole_objects(context, findings)?;
    env.take_variables(context, findings)?;
    env.take_services()?;
    let mounts = env.mounts(findings)?;
    let command = env.line("command", container.command)?;
    let args = env.line("args", container.args)?;
    let image = container.image.unwrap_or_default();
    let resolved = ResolvedContainer::new(container.name, container.kind, image, command, args, env.vars);
    Ok(resolved.with_mounts(mounts))
}

/// A container's environment in the making.
///
/// A name that is set again keeps its place and gets the later value. (A kubelet's own order is that of a
/// Go map: a different one each time. Oracle case env-odd-names.)
struct Environment<'a> {
    container: &'a Written<'a>,
    /// Behind everything that the pod names itself, yet known to the expansion of all of it.
    services: &'a [EnvVar],
    budget: &'a mut usize,
    vars: Vec<EnvVar>,
    index: HashMap<String, usize>,
}

impl Environment<'_> {
    /// `envFrom`: later sources win, values are taken as they are.
    fn take_whole_objects(
        &mut self,
        context: &Context<'_>,
        findings: &mut Findings<'_>,
    ) -> Result<(), ResolveError> {
        let place = Place::Container(self.container.name.to_owned());
        for (i, source) in self.container.env_from.iter().enumerate() {
            let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
                (Some(map), _) => (ObjectKind::ConfigMap, &map.name, map.optional),
                (None, Some(secret)) => (ObjectKind::Secret, &secret.name, secret.optional),
                (None, None) => {
                    return Err(
                        self.invalid(&format!("envFrom[{i}]"), "names neither a ConfigMap nor a Secret")
                    );
                }
            };
            let optional = optional == Some(true);
            let wanted = ObjectRef { kind, namespace: context.namespace.into(), name: name.as_str().into() };
            let Some(object) = findings.object(&wanted, optional, &place) else { continue };
            for (key, bytes) in &object.data {
                let name = format!("{}{key}", source.prefix.as_deref().unwrap_or_default());
                if !is_variable_name(&name) {
                    findings.invalid_names.entry(wanted.clone()).or_default().push(name);
                } else if let Ok(text) = std::str::from_utf8(bytes) {
                    self.take_value(name, &wanted, key, text)?;
                } else {
                    findings.lack(&wanted, What::NotText(key.clone()), false, &place);
                }
            }
        }
        Ok(())
    }

    /// `env`: in order, each knowing the ones before it.
    fn take_variables(
        &mut self,
        context: &Context<'_>,
        findings: &mut Findings<'_>,
    ) -> Result<(), ResolveError> {
        for (i, var) in self.container.env.iter().enumerate() {
            match (&var.value, &var.value_from) {
                (Some(text), _) if !text.is_empty() => {
                    let field = format!("env[{i}].value");
                    let value = expand(text, *self.budget, |name| self.value(name))
                        .map_err(|_| self.too_long(&field))?;
                    self.set(var.name.clone(), value, Origin::Literal)?;
                }
                (_, Some(source)) => self.take_reference(context, findings, i, var, source)?,
                (_, None) => self.set(var.name.clone(), Value::plain(""), Origin::Literal)?,
            }
        }
        Ok(())
    }

    fn take_reference(
        &mut self,
        context: &Context<'_>,
        findings: &mut Findings<'_>,
        i: usize,
        var: &EnvVarSpec,
        source: &EnvVarSource,
    ) -> Result<(), ResolveError> {
        let field = |rest: &str| format!("env[{i}].valueFrom{rest}");
        if let Some(selector) = &source.field_ref {
            let path = &selector.field_path;
            let text = context
                .env_field(findings, path)
                .map_err(|reason| self.invalid(&field(".fieldRef.fieldPath"), &reason))?;
            return self.set(var.name.clone(), Value::plain(text), Origin::Field(path.clone()));
        }
        if let Some(selector) = &source.resource_field_ref {
            let text = context
                .resource(Some(self.container.name), selector)
                .map_err(|reason| self.invalid(&field(".resourceFieldRef"), &reason))?;
            return self.set(
                var.name.clone(),
                Value::plain(text),
                Origin::Resource(selector.resource.clone()),
            );
        }
        if let Some(selector) = &source.file_key_ref {
            let origin = Origin::File {
                volume: selector.volume_name.clone(),
                path: selector.path.clone(),
                key: selector.key.clone(),
                optional: selector.optional == Some(true),
            };
            return self.set(var.name.clone(), Value::plain(""), origin);
        }
        let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
            (Some(map), _) => (ObjectKind::ConfigMap, &map.name, &map.key, map.optional),
            (None, Some(secret)) => (ObjectKind::Secret, &secret.name, &secret.key, secret.optional),
            (None, None) => return Err(self.invalid(&field(""), "names no source that this node knows")),
        };
        let optional = optional == Some(true);
        let place = Place::Container(self.container.name.to_owned());
        let wanted = ObjectRef { kind, namespace: context.namespace.into(), name: name.as_str().into() };
        // Where an optional value is missing, an earlier one of the same name stays.
        let Some(object) = findings.object(&wanted, optional, &place) else { return Ok(()) };
        match object.data.get(key).map(|bytes| std::str::from_utf8(bytes)) {
            Some(Ok(text)) => self.take_value(var.name.clone(), &wanted, key, text)?,
            Some(Err(_)) => findings.lack(&wanted, What::NotText(key.clone()), false, &place),
            None => findings.lack(&wanted, What::Key(key.clone()), optional, &place),
        }
        Ok(())
    }

    fn take_value(
        &mut self,
        name: String,
        object: &ObjectRef,
        key: &str,
        text: &str,
    ) -> Result<(), ResolveError> {
        let (from, key) = (object.name.to_string(), key.to_owned());
        match object.kind {
            ObjectKind::Secret => self.set(name, Value::secret(text), Origin::Secret { name: from, key }),
            _ => self.set(name, Value::plain(text), Origin::ConfigMap { name: from, key }),
        }
    }

    fn value(&self, name: &str) -> Option<&Value> {
        let own = self.index.get(name).map(|at| &self.vars[*at].value);
        own.or_else(|| self.services.iter().find(|var| var.name == name).map(|var| &var.value))
    }

    fn take_services(&mut self) -> Result<(), ResolveError> {
        for var in self.services {
            if !self.index.contains_key(&var.name) {
                self.set(var.name.clone(), var.value.clone(), var.origin.clone())?;
            }
        }
        Ok(())
    }

    /// Where volumes go. A variable in a `subPathExpr` that is not known keeps the container from starting.
    fn mounts(&self, findings: &mut Findings<'_>) -> Result<Vec<ResolvedMount>, ResolveError> {
        let mut mounts = Vec::with_capacity(self.container.mounts.len());
        for (i, written) in self.container.mounts.iter().enumerate() {
            let field = format!("volumeMounts[{i}]");
            let mut mount = ResolvedMount::new(&*written.name, &*written.mount_path);
            mount.read_only = written.read_only == Some(true);
            mount.sub_path = written.sub_path.clone().filter(|path| !path.is_empty());
            if let Some(text) = written.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
                let unknown = RefCell::new(None);
                let value = expand(text, *self.budget, |name| {
                    let value = self.value(name);
                    if value.is_none() {
                        unknown.borrow_mut().get_or_insert_with(|| name.to_owned());
                    }
                    value
                });
                let value = value.map_err(|_| self.too_long(&field))?;
                if let Some(name) = unknown.into_inner() {
                    // A kubelet's words (oracle case subpath-escapes).
                    let message = format!("missing value for {name}");
                    findings.unstartable.insert(self.container.name.to_owned(), message);
                }
                mount.sub_path = Some(value.expose().to_owned());
            }
            if let Some(path) = &mount.sub_path
                && (path.starts_with('/') || path.split('/').any(|part| part == ".."))
            {
                let reason = format!("the sub-path {path:?} has to be relative and without \"..\"");
                return Err(self.invalid(&field, &reason));
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }

    fn set(&mut self, name: String, value: Value, origin: Origin) -> Result<(), ResolveError> {
        self.spend("env", name.len() + value.expose().len())?;
        let var = EnvVar { name, value, origin };
        if let Some(at) = self.index.get(&var.name) {
            self.vars[*at] = var;
        } else {
            self.index.insert(var.name.clone(), self.vars.len());
            self.vars.push(var);
        }
        Ok(())
    }

    /// `command` or `args`, expanded with the finished environment.
    fn line(&mut self, field: &str, words: &[String]) -> Result<Vec<Value>, ResolveError> {
        let mut line = Vec::with_capacity(words.len());
        for (i, word) in words.iter().enumerate() {
            let field = format!("{field}[{i}]");
            let value =
                expand(word, *self.budget, |name| self.value(name)).map_err(|_| self.too_long(&field))?;
            self.spend(&field, value.expose().len())?;
            line.push(value);
        }
        Ok(line)
    }

    fn spend(&mut self, field: &str, bytes: usize) -> Result<(), ResolveError> {
        *self.budget = self.budget.checked_sub(bytes).ok_or_else(|| self.too_long(field))?;
        Ok(())
    }

    fn too_long(&self, field: &str) -> ResolveError {
        let reason = format!(
            "the environment and command lines of the pod's containers grow beyond {} MiB here; \
             use a volume for that much",
            BUDGET >> 20
        );
        self.invalid(field, &reason)
    }

    fn invalid(&self, field: &str, reason: &str) -> ResolveError {
        ResolveError::Invalid { field: format!("{}.{field}", self.container.path), reason: reason.to_owned() }
    }
}

/// Kubernetes 1.37 lets any printable ASCII but `=` be in a variable's name (KEP-4369; oracle cases
/// env-odd-names and env-from).
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_printable_characters_can_be_variables() {
        for name in ["A", "1digit", "with.dot", "with-dash", "odd name!", "2xDUP", " "] {
            assert!(is_variable_name(name), "{name}");
        }
        for name in ["", "a=b", "tab\t", "é", "\u{7f}"] {
            assert!(!is_variable_name(name), "{name}");
        }
    }
}
