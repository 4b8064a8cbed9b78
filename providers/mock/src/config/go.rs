//! The configuration file of the Go project's mock provider.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ConfigError, NodeCapacity};

/// Node names with their resources.
pub(super) fn nodes(text: &str) -> Result<BTreeMap<String, NodeCapacity>, ConfigError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| ConfigError::new("nodes", format!("not JSON: {error}")))?;
    let Value::Object(entries) = value else {
        let reason = "expected a JSON object of node names, each with its cpu, memory and pods";
        return Err(ConfigError::new("nodes", reason));
    };
    let mut nodes = BTreeMap::new();
    for (node, entry) in entries {
        let capacity = serde_json::from_value(entry)
            .map_err(|error| ConfigError::new(format!("nodes.{node}"), error.to_string()))?;
        nodes.insert(node, capacity);
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use crate::config::MockConfig;

    fn capacity(json: &str, node: &str) -> Vec<(String, String)> {
        let config = MockConfig::from_go_json(json).expect("a good file");
        config.capacity_of(node).into_iter().map(|(name, amount)| (name, amount.0)).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect()
    }

    #[test]
    fn an_entry_gives_the_node_its_resources() {
        let json = r#"{"vk": {"cpu": "2", "memory": "32Gi", "pods": "128",
                       "others": {"nvidia.com/gpu": "1"}, "providerID": "mock://there"}}"#;
        let expected = [
            ("cpu", "2"),
            ("ephemeral-storage", "100Gi"),
            ("memory", "32Gi"),
            ("nvidia.com/gpu", "1"),
            ("pods", "128"),
        ];
        assert_eq!(capacity(json, "vk"), pairs(&expected));
        let config = MockConfig::from_go_json(json).unwrap();
        assert_eq!(config.nodes["vk"].provider_id.as_deref(), Some("mock://there"));
    }

    #[test]
    fn a_missing_entry_and_missing_or_empty_fields_have_the_defaults() {
        let defaults =
            [("cpu", "20"), ("ephemeral-storage", "100Gi"), ("memory", "100Gi"), ("pods", "20000")];
        for json in
            ["{}", r#"{"other": {"cpu": "1"}}"#, r#"{"vk": {}}"#, r#"{"vk": {"cpu": "", "pods": ""}}"#]
        {
            assert_eq!(capacity(json, "vk"), pairs(&defaults), "{json}");
        }
    }

    #[test]
    fn a_fault_is_told_with_node_key_and_value() {
        let table = [
            (
                r#"{"vk": {"cpu": "two"}}"#,
                "nodes.vk.cpu: \"two\" is not a quantity such as 20, 500m or 100Gi",
            ),
            (
                r#"{"vk": {"others": {"gpu": "-1"}}}"#,
                "nodes.vk.gpu: \"-1\" is not a quantity such as 20, 500m or 100Gi",
            ),
            (r#"{"vk": {"CPUs": "2"}}"#, "nodes.vk: unknown field `CPUs`"),
            ("[]", "nodes: expected a JSON object of node names"),
            ("{", "nodes: not JSON: EOF while parsing"),
        ];
        for (json, expected) in table {
            let error = MockConfig::from_go_json(json).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }
}
