//! `$(NAME)` in environment values, commands and arguments.
//!
//! The rules are the API's ("Define Dependent Environment Variables" in the Kubernetes documentation):
//! `$(NAME)` is replaced where the name is known and stays where it is not; `$$` is one `$`, and hides a
//! reference behind it; any other `$` stands for itself. What was inserted is not looked at again, so
//! expansion always ends.

use crate::provider::Value;

/// The result would be longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Expands the references in `text`. The result is a secret as soon as one inserted value is.
///
/// At most `limit` bytes: values that each contain the last one twice grow without bound otherwise.
pub(super) fn expand<'v>(
    text: &str,
    limit: usize,
    lookup: impl Fn(&str) -> Option<&'v Value>,
) -> Result<Value, TooLong> {
    let mut out = String::with_capacity(text.len().min(limit));
    let mut secret = false;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        push(&mut out, before, limit)?;
        let after = &from[1..];
        if let Some(tail) = after.strip_prefix('$') {
            push(&mut out, "$", limit)?;
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            if let Some(value) = lookup(name) {
                secret |= value.is_secret();
                push(&mut out, value.expose(), limit)?;
            } else {
                push(&mut out, &from[..from.len() - tail.len()], limit)?;
            }
            rest = tail;
        } else {
            push(&mut out, "$", limit)?;
            rest = after;
        }
    }
    push(&mut out, rest, limit)?;
    Ok(if secret { Value::secret(out) } else { Value::plain(out) })
}

fn push(out: &mut String, text: &str, limit: usize) -> Result<(), TooLong> {
    if out.len() + text.len() > limit {
        return Err(TooLong);
    }
    out.push_str(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn vars() -> HashMap<&'static str, Value> {
        HashMap::from([
            ("A", Value::plain("a")),
            ("EMPTY", Value::plain("")),
            ("REF", Value::plain("$(A)")),
            ("odd name!", Value::plain("ok")),
            ("PASSWORD", Value::secret("hunter2")),
        ])
    }

    fn plain(text: &str) -> String {
        let vars = vars();
        let value = expand(text, 1000, |name| vars.get(name)).unwrap();
        assert!(!value.is_secret());
        value.expose().to_owned()
    }

    #[test]
    fn references_escapes_and_stray_dollars_expand_as_a_kubelet_does() {
        // The right column is what a kubelet 1.37 printed (oracle case env-expansion), except for the last
        // five rows, which follow from the rules above.
        for (text, expected) in [
            ("", ""),
            ("$(A)-b", "a-b"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$(Z)", "$(Z)"),
            ("$(NOPE) $(NOPE", "$(NOPE) $(NOPE"),
            ("$ $$ $$$ $A ${A} $(A", "$ $ $$ $A ${A} $(A"),
            ("$$", "$"),
            ("$$$$", "$$"),
            ("x$(A)y", "xay"),
            ("$(EMPTY)|", "|"),
            ("$(odd name!)", "ok"),
            ("$", "$"),
            ("$()", "$()"),
            ("$(REF)", "$(A)"),
            ("$($(A))", "$($(A))"),
            ("é$(A)é", "éaé"),
        ] {
            assert_eq!(plain(text), expected, "{text}");
        }
    }

    #[test]
    fn a_secret_taints_what_it_is_expanded_into_and_nothing_else() {
        let vars = vars();
        let url = expand("postgres://u:$(PASSWORD)@db", 1000, |name| vars.get(name)).unwrap();
        assert_eq!(url.expose(), "postgres://u:hunter2@db");
        assert!(url.is_secret());
        assert!(!format!("{url:?} {url}").contains("hunter2"));
        let escaped = expand("$$(PASSWORD)", 1000, |name| vars.get(name)).unwrap();
        assert!(!escaped.is_secret());
    }

    #[test]
    fn an_expansion_stops_at_its_limit() {
        let long = Value::plain("x".repeat(100));
        assert_eq!(expand("$(L)$(L)", 199, |_| Some(&long)), Err(TooLong));
        assert!(expand("$(L)$(L)", 200, |_| Some(&long)).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_expands_and_stays_within_its_limit(
            text in "[$()A-C x]{0,60}", value in "[$()A-C x]{0,8}", limit in 0_usize..200,
        ) {
            let value = Value::plain(value);
            if let Ok(out) = expand(&text, limit, |name| (name == "A").then_some(&value)) {
                prop_assert!(out.expose().len() <= limit);
            }
        }

        #[test]
        fn text_with_every_dollar_doubled_comes_out_as_it_was(text in "[$()A-C éx]{0,60}") {
            let value = Value::plain("never");
            let out = expand(&text.replace('$', "$$"), 1000, |_| Some(&value)).unwrap();
            prop_assert_eq!(out.expose(), text);
        }

        #[test]
        fn text_without_dollars_is_left_alone(text in "[^$]{0,60}") {
            let out = expand(&text, 1000, |_| None).unwrap();
            prop_assert_eq!(out.expose(), text);
        }
    }
}
