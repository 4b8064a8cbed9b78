//! Writes that are meant for one incarnation of an object.

use kube::core::Status;

/// Whether a patch that carries a UID was refused because the object of that name has another one by now.
///
/// The API server takes the UID of a patch for a change of it, and answers 422: "metadata.uid: Invalid value:
/// …: field is immutable". (A whole object's UID, and that of a deletion, is a precondition, and answers 409.)
pub(crate) fn is_another(status: &Status) -> bool {
    let field = |cause: &kube::core::response::StatusCause| cause.field == "metadata.uid";
    status.code == 422 && status.details.as_ref().is_some_and(|details| details.causes.iter().any(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, field: &str) -> Status {
        let causes = serde_json::json!([{ "reason": "FieldValueInvalid", "message": "", "field": field }]);
        serde_json::from_value(serde_json::json!({ "code": code, "details": { "causes": causes } })).unwrap()
    }

    #[test]
    fn only_the_uid_tells_incarnations_apart() {
        assert!(is_another(&status(422, "metadata.uid")));
        assert!(!is_another(&status(422, "spec.providerID")));
        assert!(!is_another(&status(409, "metadata.uid")));
        assert!(!is_another(&Status::failure("", "").with_code(422)));
    }
}
