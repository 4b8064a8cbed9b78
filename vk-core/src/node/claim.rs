//! Claims a node's name before anything is done in it.
//!
//! The lease in `kube-node-lease` is the one object that every daemon of a name writes all the time. Its holder is
//! the node's name by convention, so an annotation says which [`Instance`] it is. A lease that
//! another instance renews means that the name is taken; one that nobody renews may be taken over.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::PostParams;
use tokio::time::{Instant, sleep};

use super::NodeContext;
use super::call::{CallError, call};
use super::instance::{Instance, Kinship};

/// Where the leases of nodes are (KEP-589).
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The [`Instance`] that renews the lease.
const INSTANCE_ANNOTATION: &str = "virtual-kubelet.io/instance";
/// The renewal after which its instance gave the lease up. Any later renewal takes it back.
const RELEASED_ANNOTATION: &str = "virtual-kubelet.io/released-at";
/// How often a lease is looked at that may be somebody's. Renewals are at least 2.5 s apart where they are
/// of any use.
const LOOK: Duration = Duration::from_secs(1);
/// A lease that expired so long ago is nobody's, even if the clocks of two hosts disagree.
const LONG_EXPIRED: SignedDuration = SignedDuration::from_mins(5);

/// A name that is ours.
#[derive(Clone, Debug)]
pub(crate) enum Claim {
    /// The lease as the API server has it.
    Lease(Box<Lease>),
    /// Leases are beyond our reach, and with them any knowledge of who else has the name.
    OutOfReach,
}

/// Why a name could not be claimed.
#[derive(Debug)]
pub(crate) enum ClaimError {
    /// Another live daemon has it.
    Held { instance: String },
    /// The API server did not let us find out.
    Call(CallError),
}

impl From<CallError> for ClaimError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// What a lease says about who may have it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Title {
    /// It is ours, or nobody's.
    Free,
    /// A live process of this host has it.
    Held(String),
    /// Another instance had it at its last renewal.
    Other(String),
    /// Something had it that does not say who it is.
    Unmarked,
}

/// What renews leases without saying who it is.
pub(crate) const UNMARKED: &str = "a kubelet or a Go Virtual Kubelet";

/// A lease as this daemon writes it.
#[derive(Clone, Debug)]
pub(crate) struct LeaseForm {
    pub(crate) node: String,
    pub(crate) instance: Instance,
    pub(crate) duration: Duration,
}

impl LeaseForm {
    pub(crate) fn of(context: &NodeContext) -> Self {
        Self {
            node: context.config.name.clone(),
            instance: context.instance.clone(),
            duration: context.config.lease_duration,
        }
    }

    /// The lease for its creation.
    pub(crate) fn fresh(&self, owner: Option<&str>, now: Timestamp) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.node.clone()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        };
        self.renewed(Lease { metadata, spec: None }, owner, now)
    }

    /// The lease, renewed now by us. Without an owner its owners stay as they are.
    pub(crate) fn renewed(&self, mut lease: Lease, owner: Option<&str>, now: Timestamp) -> Lease {
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(INSTANCE_ANNOTATION.to_owned(), self.instance.to_string());
        annotations.remove(RELEASED_ANNOTATION);
        if let Some(uid) = owner {
            lease.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: self.node.clone(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }]);
        }
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = Some(self.node.clone());
        spec.lease_duration_seconds = Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX));
        spec.renew_time = Some(MicroTime(now));
        lease
    }

    /// The lease, given up: the next instance need not wait for it to expire.
    pub(crate) fn released(mut lease: Lease) -> Lease {
        let at = renewed_at(&lease).map(|at| at.to_string()).unwrap_or_default();
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.remove(INSTANCE_ANNOTATION);
        annotations.insert(RELEASED_ANNOTATION.to_owned(), at);
        lease
    }

    /// Who may have this lease, as far as it tells.
    pub(crate) fn title(&self, lease: &Lease) -> Title {
        let annotation = |key| lease.metadata.annotations.as_ref().and_then(|all| all.get(key));
        let renewed = renewed_at(lease).map(|at| at.to_string());
        if renewed.is_none() || annotation(RELEASED_ANNOTATION) == renewed.as_ref() {
            return Title::Free;
        }
        let Some(holder) = annotation(INSTANCE_ANNOTATION) else {
            return Title::Unmarked;
        };
        match self.instance.kinship(&Instance::parse(holder)) {
            Kinship::Same | Kinship::Dead => Title::Free,
            Kinship::Alive => Title::Held(holder.clone()),
            Kinship::Stranger => Title::Other(holder.clone()),
        }
    }
}

pub(crate) fn renewed_at(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0)
}

/// Makes the lease ours.
///
/// Waits while another instance may have it: until it is seen renewed, which is an error, or until it has
/// expired. For a lease that is ours, released, or of a dead process of this host that is no time.
pub(crate) async fn claim(context: &NodeContext) -> Result<Claim, ClaimError> {
    let form = LeaseForm::of(context);
    let api: Api<Lease> = Api::namespaced(context.client.clone(), LEASE_NAMESPACE);
    let mut watched: Option<Watched> = None;
    loop {
        let now = context.clock.now();
        let lease = match call(api.get_opt(&form.node)).await {
            Ok(Some(lease)) => lease,
            Ok(None) => {
                let lease = form.fresh(None, now);
                match call(api.create(&PostParams::default(), &lease)).await {
                    Ok(lease) => return Ok(Claim::Lease(Box::new(lease))),
                    // Somebody else was faster.
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return beyond_reach(&form.node, error),
                }
            }
            Err(error) => return beyond_reach(&form.node, error),
        };
        let other = match form.title(&lease) {
            Title::Free => None,
            Title::Held(instance) => return Err(ClaimError::Held { instance }),
            Title::Other(instance) => Some(instance),
            Title::Unmarked => Some(UNMARKED.to_owned()),
        };
        if let Some(instance) = other {
            let watched = watched.get_or_insert_with(|| Watched::new(&lease, &form, now));
            if renewed_at(&lease) != watched.renewed {
                return Err(ClaimError::Held { instance });
            }
            if Instant::now() < watched.until {
                if !std::mem::replace(&mut watched.told, true) {
                    let wait = watched.until.saturating_duration_since(Instant::now());
                    tracing::info!(
                        node = form.node,
                        instance,
                        ?wait,
                        "another daemon had this node's lease; it is taken over unless it is renewed"
                    );
                }
                sleep(LOOK).await;
                continue;
            }
            tracing::info!(node = form.node, instance, "the node's lease is not renewed and is taken over");
        }
        let renewed = form.renewed(lease, None, now);
        match call(api.replace(&form.node, &PostParams::default(), &renewed)).await {
            Ok(lease) => return Ok(Claim::Lease(Box::new(lease))),
            // Renewed or deleted since we looked.
            Err(error) if error.is_conflict() || error.is_not_found() => {}
            Err(error) => return beyond_reach(&form.node, error),
        }
    }
}

/// Who holds a node's name as far as its lease tells now; `None` is nobody, or `instance` itself.
///
/// For a look before anything is done: [`ensure_registered`](super::ensure_registered) claims the name, and watches
/// a doubtful lease before it does.
///
/// # Errors
/// [`CallError`] when the lease cannot be read; a lease that is not there is `None`.
pub async fn present_holder(
    client: &kube::Client,
    node: &str,
    instance: &Instance,
) -> Result<Option<String>, CallError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let Some(lease) = call(api.get_opt(node)).await? else { return Ok(None) };
    let form =
        LeaseForm { node: node.to_owned(), instance: instance.clone(), duration: Duration::from_secs(40) };
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(40);
    let expires =
        renewed_at(&lease).and_then(|at| at.checked_add(SignedDuration::from_secs(seconds.into())).ok());
    let expired = expires.is_none_or(|at| at < Timestamp::now());
    Ok(match form.title(&lease) {
        Title::Free => None,
        Title::Held(holder) => Some(holder),
        Title::Other(holder) => Some(holder).filter(|_| !expired),
        Title::Unmarked => Some(UNMARKED.to_owned()).filter(|_| !expired),
    })
}

/// A lease under observation.
struct Watched {
    renewed: Option<Timestamp>,
    until: Instant,
    told: bool,
}

impl Watched {
    fn new(lease: &Lease, form: &LeaseForm, now: Timestamp) -> Self {
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let duration = seconds.and_then(|s| u64::try_from(s).ok()).map_or(form.duration, Duration::from_secs);
        let renewed = renewed_at(lease);
        let age = renewed.map_or(SignedDuration::MAX, |renewed| now.duration_since(renewed));
        // At least one renewal's time, in case it is only our clock that says it expired, and at most the
        // whole duration, in case our clock is behind.
        let rest = duration.saturating_sub(Duration::try_from(age).unwrap_or_default());
        let wait = rest.max(duration.mul_f64(0.375)).min(duration);
        let expired = age - SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        let wait = if expired > LONG_EXPIRED { Duration::ZERO } else { wait };
        Self { renewed, until: Instant::now() + wait, told: false }
    }
}

/// Forbidden, or without its namespace: the node lives by its status then.
fn beyond_reach(node: &str, error: CallError) -> Result<Claim, ClaimError> {
    if error.is_forbidden() || error.is_not_found() {
        tracing::warn!(node, %error,
            "the node's lease in kube-node-lease is out of reach, so another daemon of this name would go \
             unnoticed, and the node's status is written more often instead; grant get, create and update on leases");
        return Ok(Claim::OutOfReach);
    }
    Err(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(instance: &str) -> LeaseForm {
        LeaseForm {
            node: "n".to_owned(),
            instance: Instance::named(instance),
            duration: Duration::from_secs(40),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_lease_is_what_a_kubelet_writes_plus_our_instance() {
        let lease = form("a").fresh(Some("u1"), "2026-11-23T10:00:00.5Z".parse().unwrap());
        insta::assert_snapshot!(serde_saphyr::to_string(&lease).unwrap());
    }

    #[test]
    fn a_lease_is_free_for_the_one_that_wrote_it_and_not_for_others() {
        let lease = form("a").fresh(None, at(5));
        assert_eq!(form("a").title(&lease), Title::Free);
        assert_eq!(form("b").title(&lease), Title::Other("name:a".to_owned()));
    }

    #[test]
    fn a_released_lease_is_free_until_somebody_renews_it() {
        let released = LeaseForm::released(form("a").fresh(None, at(5)));
        assert_eq!(form("b").title(&released), Title::Free);
        // A Go Virtual Kubelet keeps the annotations that it finds.
        let mut renewed = released.clone();
        renewed.spec.as_mut().unwrap().renew_time = Some(MicroTime(at(15)));
        assert_eq!(form("b").title(&renewed), Title::Unmarked);
    }

    #[test]
    fn renewing_keeps_what_others_wrote() {
        let mut lease = form("a").fresh(Some("u1"), at(5));
        lease.metadata.labels.get_or_insert_default().insert("theirs".to_owned(), "x".to_owned());
        let renewed = form("b").renewed(lease.clone(), None, at(6));
        assert_eq!(renewed.metadata.labels, lease.metadata.labels);
        assert_eq!(renewed.metadata.owner_references, lease.metadata.owner_references);
        assert_eq!(renewed_at(&renewed), Some(at(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_watched_for_a_renewal_at_least_and_for_its_duration_at_most() {
        for (age, wait) in [(0, 40), (10, 30), (39, 15), (60, 15), (339, 15), (341, 0), (-1000, 40)] {
            let lease = form("a").fresh(None, at(1_000_000 - age));
            let watched = Watched::new(&lease, &form("b"), at(1_000_000));
            assert_eq!(watched.until - Instant::now(), Duration::from_secs(wait), "age {age}");
        }
    }
}
