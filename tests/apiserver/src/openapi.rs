//! As much OpenAPI v3 as kubectl asks for: which versions there are, and that every write takes
//! `fieldValidation`, so that kubectl leaves the checking of fields to the server. No schemas.

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::resources::{self, Resource};

/// `/openapi/v3`: where the document of each group version is.
pub(crate) fn index() -> Value {
    let mut paths = Map::new();
    for resource in resources::all() {
        let path = path_of(resource);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash=1")}));
    }
    json!({"paths": paths})
}

/// `/openapi/v3/apis/GROUP/VERSION`.
pub(crate) fn document(path: &str) -> Result<Value, ApiError> {
    let mut paths = Map::new();
    for resource in resources::all().iter().filter(|r| path_of(r) == path) {
        let place = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("/{path}/{place}{}", resource.plural);
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "put": operation(resource, "put"), "patch": operation(resource, "patch"),
            }),
        );
        paths.insert(collection, json!({"post": operation(resource, "post")}));
    }
    if paths.is_empty() {
        return Err(ApiError::no_such_path());
    }
    Ok(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths, "components": {"schemas": {}},
    }))
}

fn path_of(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("api/{}", resource.version)
    } else {
        format!("apis/{}/{}", resource.group, resource.version)
    }
}

fn operation(resource: &Resource, action: &str) -> Value {
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind":
            {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
        "responses": {"200": {"description": "OK"}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_in_the_index_has_a_document() {
        for path in index()["paths"].as_object().unwrap().keys() {
            assert!(document(path).is_ok(), "{path}");
        }
        assert_eq!(document("apis/none/v1").unwrap_err().code, 404);
        let pods = &document("api/v1").unwrap()["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
        assert_eq!(pods["patch"]["parameters"][2]["name"], "fieldValidation");
    }
}
