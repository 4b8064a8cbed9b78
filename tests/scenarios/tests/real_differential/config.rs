//! Config maps and secrets.

use serde_json::{Value, json};

use crate::case::{CONFIG_MAPS, Case, SECRETS, case, config_map, get, merge, named, post, put_back, with};

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"a": "MQ=="}})
}

pub(crate) fn cases() -> Vec<Case> {
    let (c, s) = (|| format!("{CONFIG_MAPS}/c"), || format!("{SECRETS}/s"));
    vec![
        case(
            "a config map",
            [post(CONFIG_MAPS, config_map("c", "1")), get(c()), post(CONFIG_MAPS, config_map("c", "1"))],
        ),
        case(
            "an empty config map",
            [
                post(CONFIG_MAPS, json!({"metadata": named("c")})),
                post(CONFIG_MAPS, json!({"metadata": named("d"), "data": {}})),
            ],
        ),
        case(
            "binary data",
            [
                post(CONFIG_MAPS, with(config_map("c", "1"), "/binaryData", json!({"b": "AAE="}))),
                post(CONFIG_MAPS, with(config_map("d", "1"), "/binaryData", json!({"b": "not base64!"}))),
                post(CONFIG_MAPS, with(config_map("e", "1"), "/binaryData", json!({"a": "AAE="}))),
            ],
        ),
        case(
            "keys that are none",
            [
                post(CONFIG_MAPS, with(config_map("c", "1"), "/data", json!({"bad key": "x"}))),
                post(CONFIG_MAPS, with(config_map("c", "1"), "/data", json!({"..": "x"}))),
                post(CONFIG_MAPS, with(config_map("c", "1"), "/data", json!({"k".repeat(254): "x"}))),
                post(SECRETS, with(secret("s"), "/data", json!({"bad key": "MQ=="}))),
            ],
        ),
        case(
            "values of other types",
            [
                post(CONFIG_MAPS, with(config_map("c", "1"), "/data", json!({"a": 7}))),
                post(CONFIG_MAPS, with(config_map("c", "1"), "/data", json!({"a": null}))),
                post(CONFIG_MAPS, with(config_map("d", "1"), "/data", json!(["a"]))),
                post(SECRETS, with(secret("s"), "/data", json!({"a": "not base64!"}))),
            ],
        ),
        case("too much data", [post(CONFIG_MAPS, config_map("c", &"x".repeat(1_048_577)))]),
        case(
            "an immutable config map",
            [
                post(CONFIG_MAPS, with(config_map("c", "1"), "/immutable", true)),
                merge(c(), json!({"data": {"a": "2"}})),
                merge(c(), json!({"immutable": false})),
                merge(c(), json!({"binaryData": {"b": "AAE="}})),
                merge(c(), json!({"metadata": {"labels": {"x": "2"}}})),
            ],
        ),
        case(
            "becoming immutable",
            [
                post(CONFIG_MAPS, config_map("c", "1")),
                merge(c(), json!({"immutable": true})),
                merge(c(), json!({"immutable": null})),
            ],
        ),
        case("a secret", [post(SECRETS, secret("s")), get(s()), merge(s(), json!({"data": {"a": null}}))]),
        case(
            "plain values are encoded",
            [
                post(SECRETS, with(secret("s"), "/stringData", json!({"a": "2", "b": "3"}))),
                merge(s(), json!({"stringData": {"c": "4"}})),
                put_back(s(), 1, [("/stringData", json!({"d": "5"}))]),
            ],
        ),
        case(
            "types of secrets",
            [
                post(SECRETS, with(secret("s"), "/type", "example.com/own")),
                merge(s(), json!({"type": "other"})),
                merge(s(), json!({"type": null})),
                post(SECRETS, with(secret("d"), "/type", "kubernetes.io/dockerconfigjson")),
                post(SECRETS, with(secret("t"), "/type", "kubernetes.io/tls")),
                post(SECRETS, with(secret("b"), "/type", "kubernetes.io/basic-auth")),
            ],
        ),
        case(
            "an immutable secret",
            [
                post(SECRETS, with(secret("s"), "/immutable", true)),
                merge(s(), json!({"data": {"a": "Mg=="}})),
                merge(s(), json!({"stringData": {"a": "2"}})),
                merge(s(), json!({"immutable": false})),
            ],
        ),
        case(
            "secrets by type",
            [
                post(SECRETS, secret("s")),
                post(SECRETS, with(secret("t"), "/type", "example.com/own")),
                get(format!("{SECRETS}?fieldSelector=type%3DOpaque")),
                get(format!("{SECRETS}?fieldSelector=type!%3DOpaque")),
            ],
        ),
    ]
}
