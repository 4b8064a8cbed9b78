//! How a check ends that does not pass.

use std::error::Error as _;

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The node does not do what is demanded: what was seen.
    Failed(String),
    /// The demand does not concern this node or this caller: why.
    NotApplicable(String),
}

/// What a check, or a step of it, comes to.
pub type Checked<T = ()> = Result<T, Stop>;

impl Stop {
    /// The node does not do what is demanded.
    #[must_use]
    pub fn failed(seen: impl Into<String>) -> Self {
        Self::Failed(seen.into())
    }

    /// The demand does not concern it.
    #[must_use]
    pub fn not_applicable(why: impl Into<String>) -> Self {
        Self::NotApplicable(why.into())
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(text) | Self::NotApplicable(text) => f.write_str(text),
        }
    }
}

/// A call that the API server refused because the caller lacks the right says nothing about the node; every other
/// failed call does.
impl From<kube::Error> for Stop {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = &error
            && status.code == 403
            && status.message.contains(" is forbidden: User ")
            && status.message.contains(" cannot ")
        {
            return Self::not_applicable(format!("the caller lacks a right: {}", status.message));
        }
        Self::failed(describe(&error))
    }
}

/// An error in a line, with its causes.
pub(crate) fn describe(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("HTTP {}: {}", status.code, status.message.trim());
    }
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

/// The HTTP status of a refused call, if there was an answer at all.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(status)) => {
            Some(status.as_u16())
        }
        _ => None,
    }
}

/// Ends the check as failed unless something holds.
macro_rules! demand {
    ($holds:expr, $($seen:tt)+) => {
        if !$holds {
            return Err($crate::stop::Stop::failed(format!($($seen)+)));
        }
    };
}
pub(crate) use demand;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(kube::core::Status {
            code,
            message: message.to_owned(),
            ..kube::core::Status::default()
        }))
    }

    #[test]
    fn a_missing_right_is_the_callers_and_a_kubelets_refusal_is_the_nodes() {
        let rbac = r#"pods is forbidden: User "x" cannot create resource "pods" in API group "" in the namespace "n""#;
        assert!(
            matches!(Stop::from(refused(403, rbac)), Stop::NotApplicable(why) if why.contains("User \"x\""))
        );
        let kubelet = "Forbidden (user=kube-apiserver, verb=get, resource=nodes, subresource(s)=[stats])";
        assert_eq!(Stop::from(refused(403, kubelet)), Stop::failed(format!("HTTP 403: {kubelet}")));
        assert_eq!(Stop::from(refused(500, "oh")), Stop::failed("HTTP 500: oh"));
    }
}
