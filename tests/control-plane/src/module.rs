//! The pinned Go modules the control plane is built from.
//!
//! Each pin is a small wrapper module under `modules/`: `go.mod` and `go.sum` name every dependency, `tools.go`
//! imports the commands. The files are compiled into this library, so that a changed pin changes the cache key.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, bail};

use crate::cache::fingerprint;

/// A Kubernetes release the control plane can be run at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// 1.37.2: speaks WebSocket to nodes that declare it.
    #[default]
    V1_37,
    /// 1.35.4: the line before 1.36, which speaks only SPDY to nodes. Only its API server, and kubectl: the rest
    /// would cost another quarter of an hour of building, and shows nothing about that.
    V1_35,
}

impl Version {
    /// Every version, the default first.
    pub const ALL: [Self; 2] = [Self::V1_37, Self::V1_35];

    /// The full release, without a leading `v`.
    #[must_use]
    pub const fn release(self) -> &'static str {
        match self {
            Self::V1_37 => "1.37.2",
            Self::V1_35 => "1.35.4",
        }
    }
}

impl Version {
    /// Whether its controller manager and scheduler are run too. Without them nothing is made of what users write:
    /// pods name their node, and namespaces have no service account until somebody makes it.
    #[must_use]
    pub const fn has_controllers(self) -> bool {
        matches!(self, Self::V1_37)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.release())
    }
}

impl FromStr for Version {
    type Err = Error;

    /// Takes a release or its minor version, with or without a leading `v`: `1.37.2`, `v1.37`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wanted = text.strip_prefix('v').unwrap_or(text);
        for version in Self::ALL {
            let release = version.release();
            let minor = release.rsplit_once('.').map_or(release, |(minor, _)| minor);
            if wanted == release || wanted == minor {
                return Ok(version);
            }
        }
        bail!("no control plane of version {text} is pinned here; there are {}", known())
    }
}

fn known() -> String {
    Version::ALL.map(Version::release).join(" and ")
}

/// A module that is built as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// kube-apiserver, kube-controller-manager, kube-scheduler, kubectl.
    Kubernetes(Version),
    /// etcd.
    Etcd,
    /// KWOK, a peer in the benchmarks.
    Kwok,
    /// metrics-server, which reads nodes' metrics.
    MetricsServer,
    /// Helm, which renders and installs the chart.
    Helm,
    /// The program in the images of the kubelet recordings.
    OracleTool,
    /// A program of our own, which asks a node for everything that client-go can stream.
    StreamClients,
}

/// What is built from a module, and how.
#[derive(Debug, Clone, Copy)]
pub struct Pin {
    /// Name of the component, part of its cache folder's.
    pub name: &'static str,
    /// Its version, without a leading `v`.
    pub version: &'static str,
    /// The wrapper module's files: name and content.
    pub files: [(&'static str, &'static str); 3],
    /// Binaries: file name and Go package.
    pub binaries: &'static [(&'static str, &'static str)],
    /// Files of the module itself that the binary wants beside it: file name, and path inside the module that holds
    /// the first binary's package.
    pub resources: &'static [(&'static str, &'static str)],
    /// Variables set at link time: the version the binary reports.
    pub stamps: &'static [(&'static str, &'static str)],
}

macro_rules! files {
    ($folder:literal) => {
        [
            ("go.mod", include_str!(concat!("../modules/", $folder, "/go.mod"))),
            ("go.sum", include_str!(concat!("../modules/", $folder, "/go.sum"))),
            ("tools.go", include_str!(concat!("../modules/", $folder, "/tools.go"))),
        ]
    };
}

/// What of Kubernetes has no controllers.
const API_ONLY: &[(&str, &str)] = &[
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];

const KUBERNETES: &[(&str, &str)] = &[
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];

/// What its nodes and pods go through, as its own installation has it: without them it refuses to start.
const KWOK_STAGES: &[(&str, &str)] = &[
    ("stage-node-initialize.yaml", "kustomize/stage/node/fast/node-initialize.yaml"),
    ("stage-node-heartbeat.yaml", "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml"),
    ("stage-pod-ready.yaml", "kustomize/stage/pod/fast/pod-ready.yaml"),
    ("stage-pod-complete.yaml", "kustomize/stage/pod/fast/pod-complete.yaml"),
    ("stage-pod-delete.yaml", "kustomize/stage/pod/fast/pod-delete.yaml"),
];

impl Module {
    /// The pin: files, packages, flags.
    #[must_use]
    pub const fn pin(self) -> Pin {
        match self {
            Self::Kubernetes(version @ Version::V1_37) => Pin {
                name: "kubernetes",
                version: version.release(),
                files: files!("kubernetes-1.37"),
                binaries: KUBERNETES,
                resources: &[],
                stamps: &[
                    ("k8s.io/component-base/version.gitVersion", "v1.37.2"),
                    ("k8s.io/component-base/version.gitMajor", "1"),
                    ("k8s.io/component-base/version.gitMinor", "37"),
                ],
            },
            Self::Kubernetes(version @ Version::V1_35) => Pin {
                name: "kubernetes",
                version: version.release(),
                files: files!("kubernetes-1.35"),
                binaries: API_ONLY,
                resources: &[],
                stamps: &[
                    ("k8s.io/component-base/version.gitVersion", "v1.35.4"),
                    ("k8s.io/component-base/version.gitMajor", "1"),
                    ("k8s.io/component-base/version.gitMinor", "35"),
                ],
            },
            Self::Etcd => Pin {
                name: "etcd",
                version: "3.6.16",
                files: files!("etcd"),
                binaries: &[("etcd", "go.etcd.io/etcd/server/v3")],
                resources: &[],
                stamps: &[],
            },
            Self::Kwok => Pin {
                name: "kwok",
                version: "0.8.0",
                files: files!("kwok"),
                binaries: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")],
                resources: KWOK_STAGES,
                stamps: &[],
            },
            Self::MetricsServer => Pin {
                name: "metrics-server",
                version: "0.9.0",
                files: files!("metrics-server"),
                binaries: &[("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server")],
                resources: &[],
                stamps: &[],
            },
            Self::Helm => Pin {
                name: "helm",
                version: "4.3.1",
                files: files!("helm"),
                binaries: &[("helm", "helm.sh/helm/v4/cmd/helm")],
                resources: &[],
                stamps: &[("helm.sh/helm/v4/internal/version.version", "v4.3.1")],
            },
            Self::StreamClients => Pin {
                name: "stream-clients",
                version: "0.37.2",
                files: [
                    ("go.mod", include_str!("../modules/stream-clients/go.mod")),
                    ("go.sum", include_str!("../modules/stream-clients/go.sum")),
                    ("main.go", include_str!("../modules/stream-clients/main.go")),
                ],
                binaries: &[("stream-clients", ".")],
                stamps: &[],
                resources: &[],
            },
            Self::OracleTool => Pin {
                name: "oracle-tool",
                version: "1",
                files: [
                    ("go.mod", include_str!("../modules/oracle-tool/go.mod")),
                    ("go.sum", include_str!("../modules/oracle-tool/go.sum")),
                    ("main.go", include_str!("../modules/oracle-tool/main.go")),
                ],
                binaries: &[("tool", ".")],
                resources: &[],
                stamps: &[],
            },
        }
    }
}

impl Pin {
    /// The value of `go build -ldflags`: no symbol table, and the version stamps.
    #[must_use]
    pub fn ldflags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        for (variable, value) in self.stamps {
            flags.push_str(" -X ");
            flags.push_str(variable);
            flags.push('=');
            flags.push_str(value);
        }
        flags
    }

    /// The cache folder's name: component, version, and a hash of everything that decides what is built.
    #[must_use]
    pub fn folder(&self) -> String {
        let flags = self.ldflags();
        let files = self.files.iter().flat_map(|(name, content)| [name.as_bytes(), content.as_bytes()]);
        let packages = self.binaries.iter().flat_map(|(name, package)| [name.as_bytes(), package.as_bytes()]);
        let resources = self.resources.iter().flat_map(|(name, path)| [name.as_bytes(), path.as_bytes()]);
        let hash = fingerprint(files.chain(packages).chain(resources).chain([flags.as_bytes()]));
        format!("{}-{}-{hash}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: [Module; 7] = [
        Module::Kubernetes(Version::V1_37),
        Module::Kubernetes(Version::V1_35),
        Module::Etcd,
        Module::Kwok,
        Module::MetricsServer,
        Module::Helm,
        Module::StreamClients,
    ];

    #[test]
    fn a_version_is_found_by_release_or_minor() {
        for text in ["1.37", "v1.37", "1.37.2", "v1.37.2"] {
            assert_eq!(text.parse::<Version>().expect(text), Version::V1_37);
        }
        assert_eq!("1.35".parse::<Version>().expect("1.35"), Version::V1_35);
    }

    #[test]
    fn an_unknown_version_is_refused_with_the_known_ones() {
        let error = "1.36".parse::<Version>().expect_err("1.36 is not pinned").to_string();
        assert!(error.contains("1.36") && error.contains("1.37.2 and 1.35.4"), "{error}");
        assert!("1.3".parse::<Version>().is_err());
    }

    #[test]
    fn every_pin_requires_the_version_it_names() {
        for module in MODULES {
            let pin = module.pin();
            let [(_, go_mod), (_, go_sum), (_, tools)] = pin.files;
            for (_, package) in pin.binaries.iter().filter(|(_, package)| *package != ".") {
                assert!(tools.contains(&format!("\"{package}\"")), "{package} in tools.go of {}", pin.name);
            }
            assert!(go_mod.contains(&format!(" v{}\n", pin.version)), "{} {}", pin.name, pin.version);
            assert!(go_sum.contains(&format!(" v{} h1:", pin.version)), "{} {}", pin.name, pin.version);
        }
    }

    #[test]
    fn a_changed_pin_changes_the_folder() {
        let pin = Module::Etcd.pin();
        let mut changed = pin;
        changed.files[1].1 = "another go.sum";
        assert_ne!(pin.folder(), changed.folder());
        let mut stamped = pin;
        stamped.stamps = &[("a", "b")];
        assert_ne!(pin.folder(), stamped.folder());
        assert!(pin.folder().starts_with("etcd-3.6.16-"), "{}", pin.folder());
    }

    #[test]
    fn kubernetes_reports_the_release_it_was_built_from() {
        for version in Version::ALL {
            let flags = Module::Kubernetes(version).pin().ldflags();
            assert!(flags.starts_with("-s -w -X "), "{flags}");
            assert!(flags.contains(&format!("gitVersion=v{version} ")), "{flags}");
        }
    }
}
