//! Decorators: providers around providers. None of them changes a capability; what the inner provider
//! lacks, the decorated one lacks.

pub use self::delayed::{Delayed, Delays};
pub use self::faulty::{Faults, Faulty, Verb};
pub use self::limited::{Limited, Limits};
pub(crate) use self::metered::Metered;
#[doc(hidden)]
pub use self::metered::metered;

mod delayed;
#[cfg(test)]
pub(crate) mod fake;
mod faulty;
mod limited;
mod metered;
