//! A container's environment, kept small: ten thousand idle pods have theirs, too.

use std::fmt;

use vk_core::provider::EnvVar;

/// Names and values, as a process has them: each ended by a NUL, which neither can hold. It may hold secrets.
#[derive(Default)]
pub(crate) struct Environ(Box<str>);

impl Environ {
    pub(crate) fn of(variables: &[EnvVar]) -> Self {
        let mut text = String::new();
        for variable in variables {
            for part in [variable.name.as_str(), variable.value.expose()] {
                text.push_str(part.split('\0').next().unwrap_or_default());
                text.push('\0');
            }
        }
        Self(text.into())
    }

    /// Names and values, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator('\0');
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }
}

impl fmt::Debug for Environ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use vk_core::provider::{Origin, Value};

    use super::*;

    #[test]
    fn variables_come_back_in_order_and_values_are_not_shown() {
        let variables = [("A", "1"), ("EMPTY", ""), ("B", "a=b c")];
        let variables = variables.map(|(name, value)| EnvVar {
            name: name.to_owned(),
            value: Value::secret(value),
            origin: Origin::Literal,
        });
        let environ = Environ::of(&variables);
        let all: Vec<_> = environ.iter().collect();
        assert_eq!(all, [("A", "1"), ("EMPTY", ""), ("B", "a=b c")]);
        assert_eq!(format!("{environ:?}"), r#"["A", "EMPTY", "B"]"#);
    }
}
