//! Writing kubeconfigs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::pki::Pair;

/// Writes a kubeconfig for one server and one client certificate. The certificates are named by path, so that the
/// file stays valid exactly as long as the instance. JSON, which every kubeconfig reader takes for YAML.
pub fn write(path: &Path, server: &str, authority: &Path, client: &Pair) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "test", "user": {"client-certificate": client.certificate, "client-key": client.key}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    });
    let text = serde_json::to_string_pretty(&config).context("writing a kubeconfig as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
