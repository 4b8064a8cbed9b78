//! Asks the provider how it is.

use std::sync::Arc;

use tokio::time::timeout;

use super::conditions::Readiness;
use crate::config::NodeConfig;
use crate::provider::{Health, NodeInfo, Provider};

/// A provider's answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ping {
    /// What it said about the node, if it said anything.
    pub(crate) info: Option<NodeInfo>,
    /// Whether pods can be started, as far as the provider is concerned.
    pub(crate) readiness: Readiness,
}

/// Asks once, and waits for `ping_timeout` at most.
pub(crate) async fn ping(provider: Arc<dyn Provider>, config: Arc<NodeConfig>) -> Ping {
    match timeout(config.ping_timeout, provider.node_info()).await {
        Ok(Ok(info)) => {
            let readiness = match &info.health {
                Health::Healthy => Readiness::Ready,
                Health::Unhealthy { reason, message } => Readiness::not_ready(reason, message),
            };
            Ping { info: Some(info), readiness }
        }
        Ok(Err(error)) => {
            let message = format!("the provider {} failed: {}", provider.name(), error.chain());
            Ping { info: None, readiness: Readiness::not_ready(error.reason(), message) }
        }
        Err(_) => {
            let limit = config.ping_timeout;
            let message = format!("the provider {} did not answer within {limit:?}", provider.name());
            Ping { info: None, readiness: Readiness::not_ready("ProviderTimeout", message) }
        }
    }
}
