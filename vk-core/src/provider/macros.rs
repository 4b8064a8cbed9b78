//! Shorthands for the methods of a provider that say what it has.

/// Says which capabilities a [`Provider`](crate::provider::Provider) or
/// [`ContainerBackend`](crate::containers::ContainerBackend) lacks: `None` for each of those named.
///
/// Written inside its `impl`. There is no "and all the others": a capability that is added to the contract has to be
/// thought about by every provider.
///
/// ```text
/// impl Provider for Batch {
///     // …
///     vk_core::offers!(logs);
///     vk_core::lacks!(prepare, update, exec, attach, port_forward, stats);
/// }
/// ```
#[macro_export]
macro_rules! lacks {
    ($($capability:ident),+ $(,)?) => { $($crate::__capability!($capability, lacks);)+ };
}

/// Says which capabilities a [`Provider`](crate::provider::Provider) or
/// [`ContainerBackend`](crate::containers::ContainerBackend) has, when it implements their traits itself: `Some(self)`
/// for each of those named. See [`lacks!`](crate::lacks).
#[macro_export]
macro_rules! offers {
    ($($capability:ident),+ $(,)?) => { $($crate::__capability!($capability, offers);)+ };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __capability {
    (@fn $name:ident, $capability:path, lacks) => {
        fn $name(&self) -> Option<&dyn $capability> {
            None
        }
    };
    (@fn $name:ident, $capability:path, offers) => {
        fn $name(&self) -> Option<&dyn $capability> {
            Some(self)
        }
    };
    (prepare, $answer:ident) => {
        $crate::__capability!(@fn prepare, $crate::provider::PodPrepare, $answer);
    };
    (update, $answer:ident) => {
        $crate::__capability!(@fn update, $crate::provider::PodUpdate, $answer);
    };
    (logs, $answer:ident) => {
        $crate::__capability!(@fn logs, $crate::provider::ContainerLogs, $answer);
    };
    (exec, $answer:ident) => {
        $crate::__capability!(@fn exec, $crate::provider::ContainerExec, $answer);
    };
    (attach, $answer:ident) => {
        $crate::__capability!(@fn attach, $crate::provider::ContainerAttach, $answer);
    };
    (port_forward, $answer:ident) => {
        $crate::__capability!(@fn port_forward, $crate::provider::PortForward, $answer);
    };
    (stats, $answer:ident) => {
        $crate::__capability!(@fn stats, $crate::provider::PodStats, $answer);
    };
    (resize, $answer:ident) => {
        $crate::__capability!(@fn resize, $crate::containers::ContainerResize, $answer);
    };
}

/// The methods that a decorator hands on unchanged to the provider in its field of that name: what the backend is called,
/// what it does itself, and its capabilities. The five calls are left to be written.
///
/// ```text
/// impl Provider for Timed {
///     vk_core::forward_capabilities!(inner);
///     // node_info, create_pod, delete_pod, list_pods, watch_pods
/// }
/// ```
#[macro_export]
macro_rules! forward_capabilities {
    ($inner:ident) => {
        fn name(&self) -> &'static str {
            self.$inner.name()
        }
        fn native(&self) -> $crate::provider::Features {
            self.$inner.native()
        }
        fn fields(&self) -> &$crate::provider::FieldSupport {
            self.$inner.fields()
        }
        fn prepare(&self) -> Option<&dyn $crate::provider::PodPrepare> {
            self.$inner.prepare()
        }
        fn update(&self) -> Option<&dyn $crate::provider::PodUpdate> {
            self.$inner.update()
        }
        fn logs(&self) -> Option<&dyn $crate::provider::ContainerLogs> {
            self.$inner.logs()
        }
        fn exec(&self) -> Option<&dyn $crate::provider::ContainerExec> {
            self.$inner.exec()
        }
        fn attach(&self) -> Option<&dyn $crate::provider::ContainerAttach> {
            self.$inner.attach()
        }
        fn port_forward(&self) -> Option<&dyn $crate::provider::PortForward> {
            self.$inner.port_forward()
        }
        fn stats(&self) -> Option<&dyn $crate::provider::PodStats> {
            self.$inner.stats()
        }
    };
}
