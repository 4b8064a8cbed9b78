//! What a pod's images may be pulled with: the entries of its `imagePullSecrets` that match one of them.
//!
//! Only the pod's own list is read: a pod without one gets its ServiceAccount's from the API server, when it is
//! made (the `ServiceAccount` admission plugin). The rules of matching are those of
//! `pkg/credentialprovider/keyring.go`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;

use super::findings::{Findings, Place, What};
use super::object::{Object, ObjectKind, ObjectRef};
use crate::provider::{PullCredential, Value};

/// Docker's own name for its registry, under which its client writes down credentials.
const DOCKER_HUB: &str = "index.docker.io";

/// The keys of the two types of Secret.
const CONFIG_JSON: &str = ".dockerconfigjson";
const CONFIG: &str = ".dockercfg";

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// A registry's entry. Not `Debug`: everything in it is secret.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Why a Secret holds no credentials: never what is in it.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable(&'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The credentials for the pod's images, the most specific first, as far as their Secrets have been read.
pub(super) fn resolve(spec: &PodSpec, namespace: &str, findings: &mut Findings<'_>) -> Vec<PullCredential> {
    let images = images(spec);
    let mut all = Vec::new();
    for reference in spec.image_pull_secrets.iter().flatten().filter(|reference| !reference.name.is_empty()) {
        let wanted = ObjectRef {
            kind: ObjectKind::Secret,
            namespace: namespace.into(),
            name: reference.name.as_str().into(),
        };
        let Some(secret) = findings.object(&wanted, true, &Place::Pull) else { continue };
        let entries = match entries(&secret) {
            Ok(entries) => entries,
            Err(Unreadable(why)) => {
                findings.lack(&wanted, What::NotText(why.to_owned()), true, &Place::Pull);
                continue;
            }
        };
        for (registry, entry) in entries {
            let for_images: Vec<_> = images
                .iter()
                .filter(|image| matches(&registry, image))
                .map(|image| (*image).to_owned())
                .collect();
            if !for_images.is_empty() {
                all.push(entry.credential(registry, for_images, &reference.name));
            }
        }
    }
    // As a kubelet's keyring: backwards by name, so that a longer path comes before its beginning.
    all.sort_by(|a, b| location(&b.registry).cmp(location(&a.registry)));
    all
}

fn images(spec: &PodSpec) -> Vec<&str> {
    let of = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut images: Vec<_> = of.filter_map(|container| container.image.as_deref()).collect();
    images.extend(spec.ephemeral_containers.iter().flatten().filter_map(|c| c.image.as_deref()));
    images.extend(spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref()));
    images.sort_unstable();
    images.dedup();
    images
}

fn entries(secret: &Object) -> Result<BTreeMap<String, Entry>, Unreadable> {
    // Errors of the parser would show what it stumbled over.
    if let Some(json) = secret.data.get(CONFIG_JSON) {
        let config: ConfigJson = serde_json::from_slice(json).map_err(|_| Unreadable(CONFIG_JSON))?;
        return config
            .auths
            .into_iter()
            .map(|(registry, entry)| Ok((registry, entry.decoded(CONFIG_JSON)?)))
            .collect();
    }
    if let Some(json) = secret.data.get(CONFIG) {
        let config: BTreeMap<String, Entry> = serde_json::from_slice(json).map_err(|_| Unreadable(CONFIG))?;
        return config.into_iter().map(|(registry, entry)| Ok((registry, entry.decoded(CONFIG)?))).collect();
    }
    Err(Unreadable("no .dockerconfigjson and no .dockercfg"))
}

impl Entry {
    /// With user and password from `auth`, where they are not there themselves.
    fn decoded(mut self, key: &'static str) -> Result<Self, Unreadable> {
        if !self.auth.is_empty() && self.username.is_empty() {
            let auth = self.auth.trim();
            let bytes = STANDARD
                .decode(auth)
                .or_else(|_| STANDARD_NO_PAD.decode(auth))
                .map_err(|_| Unreadable(key))?;
            let text = String::from_utf8(bytes).map_err(|_| Unreadable(key))?;
            let (user, password) = text.split_once(':').ok_or(Unreadable(key))?;
            user.clone_into(&mut self.username);
            // Docker ends it with zeros at times.
            password.trim_end_matches('\0').clone_into(&mut self.password);
        }
        Ok(self)
    }

    fn credential(self, registry: String, images: Vec<String>, secret: &str) -> PullCredential {
        let token = |text: String| (!text.is_empty()).then(|| Value::secret(text));
        PullCredential {
            registry,
            username: self.username,
            password: Value::secret(self.password),
            identity_token: token(self.identitytoken),
            registry_token: token(self.registrytoken),
            images,
            secret: secret.to_owned(),
        }
    }
}

/// A registry's key without scheme, API version and slashes at the end.
fn location(registry: &str) -> &str {
    let bare =
        registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let bare = bare.trim_end_matches('/');
    bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare)
}

/// Registry and repository of an image. Names without a registry are Docker's.
fn repository(image: &str) -> (String, String) {
    let bare = image.split_once('@').map_or(image, |(name, _)| name);
    let (host, path) = match bare.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
        Some(_) => (DOCKER_HUB, bare.to_owned()),
        None => (DOCKER_HUB, format!("library/{bare}")),
    };
    let path = match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path.to_owned(),
        _ => path,
    };
    let host = if matches!(host, "docker.io" | "registry-1.docker.io") { DOCKER_HUB } else { host };
    (host.to_owned(), path)
}

/// Whether a registry's credentials are for this image: the same host, part by part, where `*` stands for a part
/// or a piece of one; the same port, if one is named; and a beginning of the path.
fn matches(registry: &str, image: &str) -> bool {
    let (pattern_host, pattern_path) = location(registry).split_once('/').unwrap_or((location(registry), ""));
    let (host, path) = repository(image);
    let split = |host: &str| {
        host.split_once(':').map_or((host.to_owned(), String::new()), |(h, p)| (h.into(), p.into()))
    };
    let ((pattern_name, pattern_port), (name, port)) = (split(pattern_host), split(&host));
    let pattern_name = if matches!(&*pattern_name, "docker.io" | "registry-1.docker.io") {
        DOCKER_HUB.to_owned()
    } else {
        pattern_name
    };
    let (pattern_parts, parts): (Vec<_>, Vec<_>) =
        (pattern_name.split('.').collect(), name.split('.').collect());
    pattern_parts.len() == parts.len()
        && pattern_parts.iter().zip(&parts).all(|(pattern, part)| glob(pattern, part))
        && (pattern_port.is_empty() || pattern_port == port)
        && path.starts_with(pattern_path)
}

/// `*` is any number of characters.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(key: &str, content: &serde_json::Value) -> Object {
        Object { data: [(key.to_owned(), content.to_string().into())].into(), ..Object::default() }
    }

    #[test]
    fn both_types_of_secret_and_all_forms_of_entry_are_read() {
        let auth = STANDARD.encode("me:pass:word");
        let auths = json!({
            "a.example": {"auth": auth},
            "b.example": {"username": "you", "password": "hunter2"},
            "c.example": {"username": "00000000-0000-0000-0000-000000000000", "identitytoken": "t"},
        });
        for object in [secret(CONFIG_JSON, &json!({"auths": auths})), secret(CONFIG, &auths)] {
            let all: Vec<_> = entries(&object)
                .unwrap()
                .into_iter()
                .map(|(registry, entry)| entry.credential(registry, vec![], "s"))
                .collect();
            assert_eq!((all[0].username.as_str(), all[0].password.expose()), ("me", "pass:word"));
            assert_eq!((all[1].username.as_str(), all[1].password.expose()), ("you", "hunter2"));
            assert_eq!(all[2].identity_token.as_ref().map(Value::expose), Some("t"));
            let shown = format!("{all:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("pass:word"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_docker_configuration_is_said_so_without_showing_it() {
        for object in [
            secret("other", &json!({})),
            secret(CONFIG_JSON, &json!("hunter2")),
            secret(CONFIG_JSON, &json!({"auths": {"a": {"auth": "hunter2!"}}})),
            secret(CONFIG, &json!({"a": {"auth": STANDARD.encode("hunter2")}})),
        ] {
            let Err(why) = entries(&object) else { panic!("it was read") };
            assert!(!why.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_registry_matches_images_as_in_a_kubelets_keyring() {
        for (registry, image, expected) in [
            ("registry.example", "registry.example/team/app:1", true),
            ("https://registry.example/v2/", "registry.example/team/app@sha256:00", true),
            ("registry.example/team", "registry.example/team/app", true),
            ("registry.example/other", "registry.example/team/app", false),
            ("registry.example", "registry.example:5000/app", true),
            ("registry.example:5000", "registry.example:5000/app", true),
            ("registry.example:5000", "registry.example/app", false),
            ("*.example", "registry.example/app", true),
            ("*.example", "a.registry.example/app", false),
            ("re*y.example", "registry.example/app", true),
            ("https://index.docker.io/v1/", "busybox", true),
            ("docker.io", "docker.io/library/busybox:1", true),
            ("docker.io/team", "team/app", true),
            ("docker.io/team", "busybox", false),
            ("registry.example", "busybox", false),
            ("localhost:5000", "localhost:5000/app:1", true),
        ] {
            assert_eq!(matches(registry, image), expected, "{registry} {image}");
        }
    }
}
