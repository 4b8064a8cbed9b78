//! How a clause ends early.

/// What a clause, or a step of one, comes to.
pub type Check<T = ()> = Result<T, Stop>;

/// Why a clause went no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The clause is not kept: what was seen, and what should have been.
    Failed(String),
    /// It does not concern this subject, because of this.
    NotApplicable(String),
}

/// A clause that is not kept.
pub(crate) fn fail<T>(reason: impl Into<String>) -> Check<T> {
    Err(Stop::Failed(reason.into()))
}

/// A clause that does not concern this subject.
pub(crate) fn skip<T>(reason: impl Into<String>) -> Check<T> {
    Err(Stop::NotApplicable(reason.into()))
}

/// Fails the clause unless the condition holds.
macro_rules! demand {
    ($holds:expr, $($reason:tt)+) => {
        if !$holds {
            return $crate::check::fail(format!($($reason)+));
        }
    };
}
pub(crate) use demand;
