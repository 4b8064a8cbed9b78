//! Which fields of a pod are honoured, and by whom.
//!
//! Every field of `spec` stands in one table with its [`Owner`]. A provider says in a [`FieldSupport`] what it does with
//! those that are its own; what it does not name it does not honour. The node refuses a pod that asks for more, before
//! anything of it is created, and names every field at once; `docs/fields.md` and `vk-node providers` show the same
//! answers. Nothing is dropped in silence.
//!
//! Only what a pod *asks for* is refused: a field that is absent, empty, or has a value that the API server writes by
//! itself or that says what is so anyway (`hostNetwork: false`, `dnsPolicy: ClusterFirst`) asks for nothing. Neither does
//! the volume with a token that the API server adds to pods with a ServiceAccount.
//!
//! ```
//! use vk_core::provider::{Feature, Features, FieldSupport};
//!
//! let fields = FieldSupport::of_pods("example", Features::of(&[Feature::InitOrder, Feature::LivenessProbes]))
//!     .all_native(&["*.image", "*.command", "*.args", "*.env[].name", "*.env[].value"])
//!     .native("spec.containers[].resources")
//!     // A feature, but not all of it.
//!     .refused("spec.containers[].livenessProbe.tcpSocket", "its probes are HTTP or exec; use httpGet")
//!     // Some values only.
//!     .only("*.securityContext.capabilities.add", &["SYS_PTRACE"], "it adds no other capability")
//!     // Some of the keys of a map.
//!     .only("spec.initContainers[].resources.limits", &["cpu", "memory"], "it has no other resources")
//!     // Honoured, but not as a kubelet would.
//!     .partly("spec.volumes[].emptyDir", "it is on the instance's own disk");
//! assert!(fields.of("spec.hostNetwork").is_some_and(|support| support.is_refusal()));
//! ```
//!
//! Fields that a newer API server knows and the types of this build do not are out of sight here: they are gone when
//! the object has been read.

use std::borrow::Cow;
use std::fmt;

use self::table::{KINDS, TABLE};
use super::Features;

pub use self::check::check;
pub use self::find::{Finding, unsupported};
pub use self::policy::{IgnoredFields, UnknownField};
pub use self::shape::example;
pub(crate) use self::strip::without;
pub use self::table::{Field, Owner};

mod check;
mod find;
mod policy;
mod shape;
mod strip;
mod table;
#[cfg(test)]
mod tests;

/// What becomes of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Support {
    /// The API server, the scheduler or a controller deals with it.
    ControlPlane,
    /// The node does it, on this backend as on others.
    Node,
    /// The backend does it.
    Native,
    /// The backend does it, but not all of it, or not as a kubelet would: how.
    Partly(Cow<'static, str>),
    /// The backend takes these values, or, of a map, these keys.
    Only {
        /// The values, as text.
        values: Vec<Cow<'static, str>>,
        /// Why no others, and what to do instead.
        why: Cow<'static, str>,
    },
    /// A pod that asks for it is refused: why, and what to do instead.
    Refused(Cow<'static, str>),
}

impl Support {
    /// Whether every pod that asks for it is refused.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane => f.write_str("control plane"),
            Self::Node => f.write_str("node"),
            Self::Native => f.write_str("native"),
            Self::Partly(how) => write!(f, "partly: {how}"),
            Self::Only { values, why } => write!(f, "only {}: {why}", values.join(", ")),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

/// Which backends the answers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Pods(Features),
    Containers,
}

/// What a provider does with each field of a pod. See the [module](self).
///
/// A path is a field's ([`Field::path`]) or that of something that has fields below it (`spec.dnsConfig`), and then
/// stands for those of them that are the backend's to honour. `*` stands for `spec.containers[]`,
/// `spec.initContainers[]` and `spec.ephemeralContainers[]`. Later answers win.
#[derive(Clone, PartialEq, Eq)]
pub struct FieldSupport {
    provider: &'static str,
    level: Level,
    /// One for each field of the table.
    answers: Vec<Support>,
}

impl FieldSupport {
    /// Of a backend that takes whole pods: what its features say, and nothing else yet.
    #[must_use]
    pub fn of_pods(provider: &'static str, native: Features) -> Self {
        Self::new(provider, Level::Pods(native))
    }

    /// Of a backend that only runs containers, under [`PodRunner`](crate::containers::PodRunner): what that does, and
    /// nothing else yet.
    #[must_use]
    pub fn of_containers(provider: &'static str) -> Self {
        Self::new(provider, Level::Containers)
    }

    fn new(provider: &'static str, level: Level) -> Self {
        let answers = TABLE.fields.iter().map(|field| unanswered(provider, level, field.owner)).collect();
        Self { provider, level, answers }
    }

    /// The backend does it.
    ///
    /// # Panics
    /// As all of these methods: if there is no such field, or it is not the backend's. That is a mistake in the
    /// provider, and its first test finds it.
    #[must_use]
    pub fn native(self, path: &str) -> Self {
        self.answer(path, &Support::Native)
    }

    /// The backend does each of them.
    #[must_use]
    pub fn all_native(self, paths: &[&str]) -> Self {
        paths.iter().fold(self, |support, path| support.native(path))
    }

    /// The backend does it in part, or in its own way: say how.
    #[must_use]
    pub fn partly(self, path: &str, how: impl Into<Cow<'static, str>>) -> Self {
        self.answer(path, &Support::Partly(how.into()))
    }

    /// The backend takes these values alone, or these keys of a map: say why, and what to do instead.
    #[must_use]
    pub fn only(self, path: &str, values: &[&'static str], why: impl Into<Cow<'static, str>>) -> Self {
        let values = values.iter().map(|value| Cow::Borrowed(*value)).collect();
        self.answer(path, &Support::Only { values, why: why.into() })
    }

    /// The backend does not do it: say why, and what to do instead. Better than the plain words that a field gets of
    /// which nothing is said.
    #[must_use]
    pub fn refused(self, path: &str, why: impl Into<Cow<'static, str>>) -> Self {
        self.answer(path, &Support::Refused(why.into()))
    }

    fn answer(mut self, path: &str, support: &Support) -> Self {
        let mut answered = false;
        for path in &meant(path) {
            for index in TABLE.at(path) {
                if is_the_backends(self.level, TABLE.fields[index].owner) {
                    self.answers[index] = support.clone();
                    answered = true;
                }
            }
        }
        assert!(
            answered,
            "{path} is no field that the {} provider could honour{}",
            self.provider,
            near(path)
        );
        self
    }

    /// The answer for a field; `None` if there is no such field.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<&Support> {
        TABLE.index(path).map(|index| &self.answers[index])
    }

    /// Every field with its answer, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Field, &Support)> {
        TABLE.fields.iter().zip(&self.answers)
    }

    /// Without commands in containers: no probe and no hook runs one.
    #[must_use]
    pub(crate) fn without_exec(mut self) -> Self {
        let why = format!(
            "the {} provider runs no commands in containers; use httpGet or tcpSocket",
            self.provider
        );
        for (index, field) in TABLE.fields.iter().enumerate() {
            let is_exec = field.path.rsplit('.').next() == Some("exec");
            if is_exec && matches!(field.owner, Owner::Feature(_)) {
                self.answers[index] = Support::Refused(why.clone().into());
            }
        }
        self
    }

    /// The provider's name.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        self.provider
    }
}

impl fmt::Debug for FieldSupport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = self.answers.iter().filter(|answer| answer.is_refusal()).count();
        f.debug_struct("FieldSupport")
            .field("provider", &self.provider)
            .field("fields", &self.answers.len())
            .field("refused", &refused)
            .finish_non_exhaustive()
    }
}

/// What holds while the provider has said nothing.
fn unanswered(provider: &'static str, level: Level, owner: Owner) -> Support {
    let refused = || {
        let what =
            format!("the {provider} provider does not honour it; leave it out, or run the pod elsewhere");
        Support::Refused(what.into())
    };
    match (owner, level) {
        (Owner::ControlPlane, _) => Support::ControlPlane,
        (Owner::Node, _) | (Owner::Runner | Owner::Feature(_), Level::Containers) => Support::Node,
        (Owner::Feature(feature), Level::Pods(native)) if native.contains(feature) => Support::Native,
        (Owner::Nobody(why), _) => Support::Refused(why.into()),
        (Owner::PodsOnly, Level::Containers) => {
            Support::Refused("the node does not do this yet; leave it out, or run the pod elsewhere".into())
        }
        (Owner::Backend | Owner::Runner | Owner::Feature(_) | Owner::PodsOnly, _) => refused(),
    }
}

fn is_the_backends(level: Level, owner: Owner) -> bool {
    match owner {
        Owner::Backend => true,
        Owner::Runner | Owner::Feature(_) | Owner::PodsOnly => matches!(level, Level::Pods(_)),
        Owner::ControlPlane | Owner::Node | Owner::Nobody(_) => false,
    }
}

/// The paths that a path with `*` stands for.
fn meant(path: &str) -> Vec<String> {
    match path.strip_prefix('*') {
        Some(rest) => KINDS.map(|kind| format!("{kind}{rest}")).to_vec(),
        None => vec![path.to_owned()],
    }
}

/// The nearest path that there is, in words.
fn near(path: &str) -> String {
    let last = path.rsplit('.').next().unwrap_or(path);
    let found = TABLE.fields.iter().find(|field| field.path.rsplit('.').next() == Some(last));
    found.map(|field| format!("; there is {}", field.path)).unwrap_or_default()
}
