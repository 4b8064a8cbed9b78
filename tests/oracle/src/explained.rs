//! Where our node is not what was recorded, and why that is right. The only place for such.

use crate::case::Case;
use crate::compare::Difference;

/// A reason why a difference is none of behaviour.
#[derive(Debug)]
pub struct Explanation {
    /// A name, for the command's output.
    pub name: &'static str,
    /// Why, in sentences that someone who knows the kubelet can check.
    pub why: &'static str,
    /// Which differences it covers.
    covers: fn(&Case, &Difference) -> bool,
}

impl Explanation {
    /// Whether it covers a difference.
    #[must_use]
    pub fn covers(&self, case: &Case, difference: &Difference) -> bool {
        (self.covers)(case, difference)
    }
}

/// All there are.
pub static EXPLANATIONS: &[Explanation] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_explanation_has_a_name_of_its_own_and_says_why() {
        for (index, explanation) in EXPLANATIONS.iter().enumerate() {
            assert!(explanation.why.len() > 40, "{}", explanation.name);
            assert!(EXPLANATIONS[..index].iter().all(|other| other.name != explanation.name));
        }
    }
}
