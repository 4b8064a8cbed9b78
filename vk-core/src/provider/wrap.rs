//! Decorators: providers around providers. None of them changes a capability; what the inner provider
//! lacks, the decorated one lacks.

pub use self::delayed::{Delayed, Delays};
pub use self::faulty::{Faults, Faulty, Verb};
pub use self::limited::{Limited, Limits};
pub(crate) use self::metered::Metered;

mod delayed;
#[cfg(test)]
pub(crate) mod fake;
mod faulty;
mod limited;
mod metered;

/// The methods that every decorator hands on unchanged.
macro_rules! forward_capabilities {
    () => {
        fn name(&self) -> &'static str {
            self.inner.name()
        }
        fn native(&self) -> Features {
            self.inner.native()
        }
        fn prepare(&self) -> Option<&dyn PodPrepare> {
            self.inner.prepare()
        }
        fn update(&self) -> Option<&dyn PodUpdate> {
            self.inner.update()
        }
        fn logs(&self) -> Option<&dyn ContainerLogs> {
            self.inner.logs()
        }
        fn exec(&self) -> Option<&dyn ContainerExec> {
            self.inner.exec()
        }
        fn attach(&self) -> Option<&dyn ContainerAttach> {
            self.inner.attach()
        }
        fn port_forward(&self) -> Option<&dyn PortForward> {
            self.inner.port_forward()
        }
        fn stats(&self) -> Option<&dyn PodStats> {
            self.inner.stats()
        }
    };
}
use forward_capabilities;
