//! Who asks.

use serde_json::{Map, Value, json};

/// A user, as authentication found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name, such as `system:node:n1`.
    pub user: String,
    /// Groups, such as `system:nodes`.
    pub groups: Vec<String>,
    /// UID, for service accounts.
    pub uid: String,
    /// Extra facts, such as the pod a token is bound to.
    pub extra: Vec<(String, Vec<String>)>,
}

impl Identity {
    /// A user in groups; `system:authenticated` is added.
    #[must_use]
    pub fn new(user: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        let everyone = "system:authenticated".to_owned();
        if !groups.contains(&everyone) {
            groups.push(everyone);
        }
        Self { user: user.into(), groups, ..Self::default() }
    }

    /// The administrator, a member of `system:masters`.
    #[must_use]
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", ["system:masters".to_owned()])
    }

    /// A caller without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { user: "system:anonymous".to_owned(), groups, ..Self::default() }
    }

    /// A service account.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        let mut identity = Self::new(format!("system:serviceaccount:{namespace}:{name}"), groups);
        uid.clone_into(&mut identity.uid);
        identity
    }

    /// `authentication.k8s.io` `UserInfo`.
    #[must_use]
    pub(crate) fn user_info(&self) -> Value {
        let mut info = json!({"username": self.user, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            let extra: Map<String, Value> =
                self.extra.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            info["extra"] = extra.into();
        }
        info
    }
}
