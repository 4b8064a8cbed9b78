//! Where our answers are other than the kubelet's, and why: the one list, which the test holds against the recordings
//! and `docs/kubelet-api.md` is made from.

/// One reason for one or more differences in the answers to one or more questions.
pub(super) struct Difference {
    /// The recording, `tests/oracle/http/<file>.yaml`.
    pub(super) file: &'static str,
    /// Its questions.
    pub(super) questions: &'static [&'static str],
    /// The places, as `compare` names them.
    pub(super) places: &'static [&'static str],
    /// Why it stays.
    pub(super) why: &'static str,
}

impl Difference {
    /// Each question with each place.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let places = self.places;
        self.questions.iter().flat_map(move |question| places.iter().map(move |place| (*question, *place)))
    }
}

/// All that the recordings show.
pub(super) const DIFFERENCES: &[Difference] = &[
    Difference {
        file: "simple",
        questions: &["healthz verbose"],
        places: &["body"],
        why: "The check `device-plugin` is of a kubelet's device plugin manager, which a virtual node has not",
    },
    Difference {
        file: "pods",
        questions: &["pods"],
        places: &[
            "no .items[].metadata.annotations.kubernetes.io/config.seen",
            "no .items[].metadata.annotations.kubernetes.io/config.source",
        ],
        why: "A kubelet marks in its copy from which of its sources a pod came, and when; a virtual node has one source, the API server, and shows the pod as it is there",
    },
    Difference {
        file: "pods",
        questions: &["pods"],
        places: &["no .items[].metadata.managedFields"],
        why: "They are as large as the rest of a pod, and are not kept",
    },
    Difference {
        file: "pods",
        questions: &["pods"],
        places: &["no .items[].status.conditions[].lastProbeTime"],
        why: "It is always null; a field without a value is not kept",
    },
    Difference {
        file: "metrics-resource",
        questions: &["metrics/resource"],
        places: &[
            "no container_swap_limit_bytes",
            "no container_swap_usage_bytes",
            "no node_swap_usage_bytes",
            "no pod_swap_usage_bytes",
        ],
        why: "Backends do not tell swap; a figure that nobody measured is absent, not zero",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary", "only_cpu_and_memory"],
        places: &[
            "no .node.cpu.psi",
            "no .node.memory.psi",
            "no .pods[].containers[].cpu.psi",
            "no .pods[].containers[].memory.psi",
            "no .pods[].cpu.psi",
            "no .pods[].memory.psi",
        ],
        why: "Pressure stall information is of the kernel that the containers run on, which backends do not show",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary", "only_cpu_and_memory"],
        places: &[
            "no .node.memory.majorPageFaults",
            "no .node.memory.pageFaults",
            "no .pods[].containers[].memory.majorPageFaults",
            "no .pods[].containers[].memory.pageFaults",
            "no .pods[].memory.majorPageFaults",
            "no .pods[].memory.pageFaults",
        ],
        why: "Page faults are of the kernel that the containers run on, which backends do not show",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary", "only_cpu_and_memory"],
        places: &["no .node.swap", "no .pods[].containers[].swap", "no .pods[].swap"],
        why: "Backends do not tell swap; a figure that nobody measured is absent, not zero",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary", "only_cpu_and_memory"],
        places: &["no .node.systemContainers"],
        why: "There is no kubelet, runtime or system slice whose use could be measured: a virtual node has no machine",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary"],
        places: &["no .node.io", "no .pods[].containers[].io", "no .pods[].io"],
        why: "It holds pressure stall information alone",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary"],
        places: &[
            "no .node.fs.inodes",
            "no .node.fs.inodesFree",
            "no .node.fs.inodesUsed",
            "no .pods[].containers[].rootfs.inodes",
            "no .pods[].containers[].rootfs.inodesFree",
            "no .pods[].containers[].rootfs.inodesUsed",
            "no .pods[].ephemeral-storage.inodes",
            "no .pods[].ephemeral-storage.inodesFree",
            "no .pods[].ephemeral-storage.inodesUsed",
        ],
        why: "Backends tell of filesystems in bytes",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary"],
        places: &["no .pods[].containers[].logs"],
        why: "Logs are the backend's, and take no room on the node",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary"],
        places: &["no .node.rlimit", "no .pods[].process_stats"],
        why: "Processes are of the kernel that the containers run on, which backends do not show",
    },
    Difference {
        file: "stats-summary",
        questions: &["summary"],
        places: &["no .node.runtime"],
        why: "Images and writable layers are the backend's",
    },
    Difference {
        file: "stats-summary",
        questions: &["only_cpu_and_memory"],
        places: &["no .pods[].containers[].memory.availableBytes", "no .pods[].memory.availableBytes"],
        why: "It is there for a container with a memory limit, if the backend tells; the one of the test has none",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_cgroup_manager_duration_seconds",
            "no kubelet_cgroup_version",
            "no kubelet_cpu_manager_exclusive_cpu_allocation_count",
            "no kubelet_cpu_manager_pinning_errors_total",
            "no kubelet_cpu_manager_pinning_requests_total",
            "no kubelet_cpu_manager_shared_pool_size_millicores",
            "no kubelet_memory_manager_pinning_errors_total",
            "no kubelet_memory_manager_pinning_requests_total",
            "no kubelet_memory_qos_node_memory_low_bytes",
            "no kubelet_memory_qos_node_memory_min_bytes",
            "no kubelet_topology_manager_admission_duration_ms",
            "no kubelet_topology_manager_admission_errors_total",
            "no kubelet_topology_manager_admission_requests_total",
        ],
        why: "CPUs, memory and cgroups are managed by the backend, out of sight",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_evented_pleg_connection_error_count",
            "no kubelet_evented_pleg_connection_latency_seconds",
            "no kubelet_evented_pleg_connection_success_count",
            "no kubelet_pleg_discard_events",
            "no kubelet_pleg_last_seen_seconds",
            "no kubelet_pleg_pod_relist_duration_seconds",
            "no kubelet_pleg_relist_duration_seconds",
            "no kubelet_pleg_relist_interval_seconds",
        ],
        why: "There is no lifecycle event generator: backends are watched or listed, which `vk_provider_calls_total` and `vk_provider_call_duration_seconds` count",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_image_manager_ensure_image_requests_total",
            "no kubelet_image_volume_mounted_errors_total",
            "no kubelet_image_volume_mounted_succeed_total",
            "no kubelet_image_volume_requested_total",
            "no kubelet_imagemanager_image_mustpull_checks_total",
            "no kubelet_imagemanager_inmemory_pulledrecords_usage_percent",
            "no kubelet_imagemanager_inmemory_pullintents_usage_percent",
            "no kubelet_imagemanager_ondisk_pulledrecords",
            "no kubelet_imagemanager_ondisk_pullintents",
        ],
        why: "Images are pulled, kept and mounted by the backend, out of sight",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_graceful_shutdown_end_time_seconds",
            "no kubelet_graceful_shutdown_start_time_seconds",
        ],
        why: "There is no machine that shuts down; a daemon that ends leaves the pods running",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_node_startup_duration_seconds",
            "no kubelet_node_startup_post_registration_duration_seconds",
            "no kubelet_node_startup_pre_kubelet_duration_seconds",
            "no kubelet_node_startup_pre_registration_duration_seconds",
            "no kubelet_node_startup_registration_duration_seconds",
        ],
        why: "They are steps of a kubelet's start that a virtual node has not; `vk-node --startup-timeout` bounds its own",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_container_log_filesystem_used_bytes",
            "no kubelet_orphan_pod_cleaned_volumes",
            "no kubelet_orphan_pod_cleaned_volumes_errors",
            "no kubelet_volume_metric_collection_duration_seconds",
        ],
        why: "Volumes and logs are the backend's, and take no room on the node",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &["no kubelet_mirror_pods"],
        why: "There are no static pods, hence no mirrors of them",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_run_podsandbox_duration_seconds",
            "no kubelet_runtime_operations_duration_seconds",
            "no kubelet_runtime_operations_errors_total",
            "no kubelet_runtime_operations_total",
        ],
        why: "There is no CRI; what is asked of the backend is in `vk_provider_calls_total` and `vk_provider_call_duration_seconds`, by call and outcome",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_pod_status_sync_duration_seconds",
            "no kubelet_pod_watch_events_dropped_total",
            "no kubelet_pod_worker_duration_seconds",
            "no kubelet_pod_worker_start_duration_seconds",
        ],
        why: "They are of a kubelet's pod workers, which work otherwise; ours are in `vk_pod_passes_total`, `vk_pod_pass_duration_seconds` and `vk_pod_steps_total`",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_first_network_pod_start_sli_duration_seconds",
            "no kubelet_pod_start_duration_seconds",
            "no kubelet_pod_start_total_duration_seconds",
        ],
        why: "They divide a start into what a kubelet sees of it: image pulls, sandbox, network; the whole is in `kubelet_pod_start_sli_duration_seconds`",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_restarted_pods_total",
            "no kubelet_started_containers_errors_total",
            "no kubelet_started_containers_total",
            "no kubelet_started_pods_errors_total",
            "no kubelet_started_pods_total",
            "no kubelet_started_user_namespaced_pods_errors_total",
            "no kubelet_started_user_namespaced_pods_total",
            "no kubelet_terminated_containers_total",
        ],
        why: "Containers are started, restarted and ended by the backend, maybe while the daemon is away: a count of those that were seen would be too low. How many there are is in `kubelet_running_pods` and `kubelet_running_containers`",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_active_pods",
            "no kubelet_containers_per_pod_count",
            "no kubelet_desired_pods",
            "no kubelet_managed_ephemeral_containers",
            "no kubelet_orphaned_runtime_pods_total",
            "no kubelet_working_pods",
        ],
        why: "They are sizes of a kubelet's tables, by its own kinds of pods; ours are in `vk_pods` and `vk_queue_pods`",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &["no kubelet_pod_in_progress_resizes", "no kubelet_pod_level_resources_admission_total"],
        why: "The node admits pods and has them resized, and counts neither: both are events of the pod",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &[
            "no kubelet_lifecycle_handler_http_fallbacks_total",
            "no kubelet_sleep_action_terminated_early_total",
        ],
        why: "Hooks are run by the backend, or by the library for it, which count no such cases",
    },
    Difference {
        file: "metrics-names",
        questions: &["metrics"],
        places: &["no kubelet_metrics_provider"],
        why: "Figures come from the backend; neither cAdvisor nor CRI is asked",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &[
            "no .kubeletconfig.authentication.x509.clientCAFile",
            "no .kubeletconfig.address",
            "no .kubeletconfig.contentType",
            "no .kubeletconfig.kubeAPIBurst",
            "no .kubeletconfig.kubeAPIQPS",
            "no .kubeletconfig.logging",
            "no .kubeletconfig.maxOpenFiles",
            "no .kubeletconfig.tlsCertFile",
            "no .kubeletconfig.tlsPrivateKeyFile",
        ],
        why: "They are the daemon's, which `/flagz` shows under its own names",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &[
            "no .kubeletconfig.cgroupDriver",
            "no .kubeletconfig.cgroupsPerQOS",
            "no .kubeletconfig.cpuCFSQuota",
            "no .kubeletconfig.cpuCFSQuotaPeriod",
            "no .kubeletconfig.cpuManagerPolicy",
            "no .kubeletconfig.cpuManagerReconcilePeriod",
            "no .kubeletconfig.enforceNodeAllocatable",
            "no .kubeletconfig.failCgroupV1",
            "no .kubeletconfig.failSwapOn",
            "no .kubeletconfig.memoryManagerPolicy",
            "no .kubeletconfig.memoryReservationPolicy",
            "no .kubeletconfig.memorySwap",
            "no .kubeletconfig.oomScoreAdj",
            "no .kubeletconfig.podPidsLimit",
            "no .kubeletconfig.seccompDefault",
            "no .kubeletconfig.topologyManagerPolicy",
            "no .kubeletconfig.topologyManagerScope",
        ],
        why: "They tell a kubelet how to use its kernel; a virtual node has none",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &[
            "no .kubeletconfig.containerRuntimeEndpoint",
            "no .kubeletconfig.imageGCHighThresholdPercent",
            "no .kubeletconfig.imageGCLowThresholdPercent",
            "no .kubeletconfig.imageMaximumGCAge",
            "no .kubeletconfig.imageMinimumGCAge",
            "no .kubeletconfig.imagePullCredentialsVerificationPolicy",
            "no .kubeletconfig.nodeStatusMaxImages",
            "no .kubeletconfig.registryBurst",
            "no .kubeletconfig.registryPullQPS",
            "no .kubeletconfig.serializeImagePulls",
        ],
        why: "They are about an image store and a container runtime, which the backend has",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &[
            "no .kubeletconfig.clusterDNS",
            "no .kubeletconfig.clusterDomain",
            "no .kubeletconfig.resolvConf",
        ],
        why: "The node's pods get their DNS settings from the backend",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &[
            "no .kubeletconfig.evictionHard",
            "no .kubeletconfig.evictionPressureTransitionPeriod",
            "no .kubeletconfig.localStorageCapacityIsolation",
            "no .kubeletconfig.mergeDefaultEvictionSettings",
        ],
        why: "Nothing is evicted for want of the node's memory or disk: it has none",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &[
            "no .kubeletconfig.containerLogMaxFiles",
            "no .kubeletconfig.containerLogMaxSize",
            "no .kubeletconfig.containerLogMaxWorkers",
            "no .kubeletconfig.containerLogMonitorInterval",
            "no .kubeletconfig.podLogsDir",
            "no .kubeletconfig.volumePluginDir",
            "no .kubeletconfig.volumeStatsAggPeriod",
        ],
        why: "Logs and volumes are the backend's, and take no room on the node",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &[
            "no .kubeletconfig.hairpinMode",
            "no .kubeletconfig.iptablesDropBit",
            "no .kubeletconfig.iptablesMasqueradeBit",
            "no .kubeletconfig.makeIPTablesUtilChains",
        ],
        why: "The node programs no network",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &["no .kubeletconfig.healthzBindAddress", "no .kubeletconfig.healthzPort"],
        why: "Health is served at the admin port, which `/flagz` shows as `admin-listen`, and on this one",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &["no .kubeletconfig.fileCheckFrequency", "no .kubeletconfig.httpCheckFrequency"],
        why: "There are no static pods to look for",
    },
    Difference {
        file: "configz",
        questions: &["configz"],
        places: &[
            "no .kubeletconfig.configMapAndSecretChangeDetectionStrategy",
            "no .kubeletconfig.crashLoopBackOff",
            "no .kubeletconfig.enableControllerAttachDetach",
            "no .kubeletconfig.maxPods",
            "no .kubeletconfig.syncFrequency",
        ],
        why: "They mean nothing here: pods are worked on when something changes, and what a node takes, restarts and attaches is the backend's",
    },
];

/// What differs where no recording shows it: where, what, and why.
pub(super) const ELSEWHERE: &[(&str, &str, &str)] = &[
    (
        "`/logs/`, `/debug/pprof/`, `/debug/flags/v`",
        "405, as from a kubelet whose configuration has them off",
        "a virtual node has no files of its own to show, and nothing of Go to profile or to turn up",
    ),
    (
        "`/checkpoint/…`",
        "501 in the place of 500 once pod and container are found",
        "no backend can freeze a container; 501 is what every missing capability is answered with",
    ),
    (
        "`/healthz/device-plugin` and its like",
        "404",
        "the checks are `ping`, `log` and `syncloop`; the last one stands for all that the node does",
    ),
    (
        "any route about a backend",
        "501 with a reason where the backend lacks the capability",
        "a kubelet always has a runtime that can",
    ),
    (
        "any route about a backend",
        "the error's own status (404, 429, 503 …)",
        "a kubelet answers 400 or 500 whatever the runtime says",
    ),
    (
        "`/containerLogs/…?stream=Stdout`",
        "works",
        "a kubelet has it behind the gate `PodLogsQuerySplitStreams`",
    ),
    ("`/metrics/resource/`", "answered like the path without a slash", "the Go Virtual Kubelet serves it so"),
    (
        "`/metrics/resource`",
        "labels in the order `container`, `pod`, `namespace`; a measured zero is written as the least figure there is",
        "the Go Virtual Kubelet's end-to-end suite takes the second label for the pod's name; metrics-server drops a pod for a zero",
    ),
    (
        "`/metrics/cadvisor`",
        "the families whose figures backends tell; `device` is empty; no `machine_*`, no `cadvisor_version_info`",
        "a virtual node has no machine and no cAdvisor",
    ),
    (
        "`/metrics`",
        "no families of Go's runtime, client-go and the API server's libraries",
        "nothing of these runs here; `vk_api_requests_total` counts calls of the API server",
    ),
    (
        "`/metrics/slis`",
        "no `kubernetes_healthchecks_total`; DELETE resets nothing",
        "checks are looked at when asked, not counted",
    ),
    (
        "`/metrics…`",
        "not compressed, whatever `Accept-Encoding` says",
        "it may be left out by HTTP's rules; a node's documents are small",
    ),
    (
        "`/flagz`, `/statusz`",
        "as objects in JSON alone; `goVersion` is empty, `emulationVersion` absent",
        "YAML and CBOR have no readers; nothing here is Go's or emulated",
    ),
    ("`POST /stats/summary`", "parameters in the query alone", "bodies are not read"),
    (
        "the port",
        "HTTP/1.1 alone; heads beyond 64 KiB are 431 (a kubelet: 1 MiB); plain HTTP is hung up on, not answered with 400",
        "no client of a kubelet needs more; what a stranger may cost is bounded",
    ),
];
