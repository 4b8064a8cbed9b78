//! Why events are recorded.

/// Whether an event is news or a warning: its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Things go as they should.
    Normal,
    /// Something is wrong.
    Warning,
}

impl Severity {
    /// The event's `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

macro_rules! reasons {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident: $severity:ident,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The event's `reason`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }

            /// The event's `type`, unless the recorder knows better.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$variant => Severity::$severity,)*
                }
            }
        }
    };
}

reasons! {
    /// Why an event about a pod is recorded: the kubelet's reasons, and the Go Virtual Kubelet's for dashboards
    /// that know them.
    Reason {
        /// The provider accepted the pod.
        ProviderCreateSuccess: Normal,
        /// The provider refused the pod, or failed; the pod is tried again unless it was refused.
        ProviderCreateFailed: Warning,
        /// The provider accepted a change of the pod.
        ProviderUpdateSuccess: Normal,
        /// The provider failed to change the pod; it runs on as it was.
        ProviderUpdateFailed: Warning,
        /// The provider accepted the pod's deletion.
        ProviderDeleteSuccess: Normal,
        /// The provider failed to delete the pod; it is tried again.
        ProviderDeleteFailed: Warning,
        /// A container's image is being fetched.
        Pulling: Normal,
        /// A container's image is there.
        Pulled: Normal,
        /// A container was created.
        Created: Normal,
        /// A container was started.
        Started: Normal,
        /// A container is being stopped.
        Killing: Normal,
        /// A container waits before it is started again, or its image before it is fetched again (which is
        /// [news](crate::events::PodEventRecord::normal), not a warning).
        BackOff: Warning,
        /// A container's image is not there, and its pull policy is `Never`.
        ErrImageNeverPull: Warning,
        /// A container's image has no valid name.
        InspectFailed: Warning,
        /// Something about a container or a pod failed.
        Failed: Warning,
        /// A probe failed.
        Unhealthy: Warning,
        /// A probe succeeded, with a remark.
        ProbeWarning: Warning,
        /// A container's postStart hook failed.
        FailedPostStartHook: Warning,
        /// A container's preStop hook failed.
        FailedPreStopHook: Warning,
        /// The pod's sandbox could not be made.
        FailedCreatePodSandBox: Warning,
        /// The pod ran for longer than `activeDeadlineSeconds`.
        DeadlineExceeded: Normal,
        /// The pod was removed to protect the node.
        Evicted: Warning,
        /// A running pod is given other resources.
        ResizeStarted: Normal,
        /// A running pod has other resources now.
        ResizeCompleted: Normal,
        /// A running pod is to have other resources, for which there is no room now.
        ResizeDeferred: Warning,
        /// A running pod is to have other resources, which it cannot be given here.
        ResizeInfeasible: Warning,
        /// A volume could not be made.
        FailedMount: Warning,
        /// The pod was not let in; the event has the [admission's own word](crate::events::PodEventRecord::word).
        Rejected: Warning,
        /// A field of the pod that only the backend knows was given another value, or none.
        LateBoundField: Warning,
        /// A field of the pod that this node does not honour was passed over, as it was told to.
        UnsupportedField: Warning,
        /// An optional ConfigMap is missing.
        OptionalConfigMapNotFound: Warning,
        /// A key of an optional ConfigMap reference is missing.
        OptionalConfigMapKeyNotFound: Warning,
        /// An optional ConfigMap could not be read.
        FailedToReadOptionalConfigMap: Warning,
        /// An optional Secret is missing.
        OptionalSecretNotFound: Warning,
        /// A key of an optional Secret reference is missing.
        OptionalSecretKeyNotFound: Warning,
        /// An optional Secret could not be read.
        FailedToReadOptionalSecret: Warning,
        /// A ConfigMap that the pod needs is missing.
        MandatoryConfigMapNotFound: Warning,
        /// A key that the pod needs is missing from its ConfigMap.
        MandatoryConfigMapKeyNotFound: Warning,
        /// A ConfigMap that the pod needs could not be read.
        FailedToReadMandatoryConfigMap: Warning,
        /// A Secret that the pod needs is missing.
        MandatorySecretNotFound: Warning,
        /// A key that the pod needs is missing from its Secret.
        MandatorySecretKeyNotFound: Warning,
        /// A Secret that the pod needs could not be read.
        FailedToReadMandatorySecret: Warning,
        /// Names of ConfigMap or Secret keys that cannot be environment variables.
        InvalidEnvironmentVariableNames: Warning,
    }
}

reasons! {
    /// Why an event about the node is recorded. `RegisteredNode` and `RemovingNode` are the node controller's
    /// and not here.
    NodeReason {
        /// The daemon has started to stand for the node.
        Starting: Normal,
        /// The node has become ready. News for a kubelet in either direction.
        NodeReady: Normal,
        /// The node has ceased to be ready.
        NodeNotReady: Normal,
        /// The Node object had gone, and was created again.
        Reregistered: Warning,
        /// `spec.providerID` cannot be changed to what the provider says now.
        ProviderIDConflict: Warning,
        /// The daemon may not write its lease; the status is written more often instead.
        LeaseForbidden: Warning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_one_camel_case_word_and_the_go_virtual_kubelets_are_kept() {
        for reason in Reason::ALL {
            let name = reason.as_str();
            assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
        }
        assert_eq!(Reason::ProviderCreateSuccess.as_str(), "ProviderCreateSuccess");
        assert_eq!(Reason::InvalidEnvironmentVariableNames.as_str(), "InvalidEnvironmentVariableNames");
    }

    #[test]
    fn failures_are_warnings_and_progress_is_not() {
        assert_eq!(Reason::Failed.severity(), Severity::Warning);
        assert_eq!(Reason::ProviderDeleteFailed.severity(), Severity::Warning);
        assert_eq!(Reason::Killing.severity(), Severity::Normal);
        assert_eq!(Reason::DeadlineExceeded.severity(), Severity::Normal);
        assert_eq!(NodeReason::NodeNotReady.severity(), Severity::Normal);
    }
}
