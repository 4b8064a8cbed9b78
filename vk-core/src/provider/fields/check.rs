//! A check of a provider's answers, for its tests.

use super::{FieldSupport, Support, example, unsupported};

/// Makes a pod for each field of the table and looks whether it is refused as the provider says: with that field's
/// name, or that of something it is part of, and the reason; and not at all if the field is honoured.
///
/// # Errors
/// The first field of which that is not so.
pub fn check(support: &FieldSupport) -> Result<(), String> {
    for (field, answer) in support.iter() {
        let path = field.path.as_str();
        let pod = example(path).ok_or_else(|| format!("{path}: no example could be made"))?;
        let found = unsupported(&pod, support);
        // Something that it is part of may be refused in its stead.
        let around = |outer: &str| {
            outer != path
                && path.strip_prefix(outer).is_some_and(|rest| rest.starts_with(['.', '[']))
                && support.of(outer).is_some_and(Support::is_refusal)
        };
        let named = found.iter().any(|finding| finding.field == path || around(finding.field));
        let refused = matches!(answer, Support::Refused(_) | Support::Only { .. });
        if refused && !named {
            return Err(format!("{path} is {answer}, and a pod with it is taken"));
        }
        if !refused && found.iter().any(|finding| finding.field == path) {
            return Err(format!("{path} is {answer}, and a pod with it is refused"));
        }
        if let Some(finding) = found.iter().find(|finding| finding.why.is_empty()) {
            return Err(format!("{} is refused without a reason", finding.path));
        }
    }
    Ok(())
}
