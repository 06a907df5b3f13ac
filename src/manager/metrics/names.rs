//! The name and meaning of every metric, in one enum: GitLab Runner's where it has the metric, ours
//! with the prefix `flotilla_`.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    ApiRequestDuration,
    ApiRequestRetries,
    ApiRequestStatuses,
    Concurrent,
    ConfigurationLoaded,
    ConfigurationLoadingError,
    FailedJobsTotal,
    HealthCheckFailures,
    JobDuration,
    JobQueueDuration,
    Jobs,
    JobsTotal,
    Limit,
    ProcessState,
    ProcessingFailures,
    RequestConcurrency,
    RequestConcurrencyAdaptiveLimit,
    RequestConcurrencyHardLimit,
    StandingStill,
    Version,
    FleetDesiredInstances,
    FleetFailures,
    FleetInstanceCreationTime,
    FleetInstanceDeletionTime,
    FleetInstanceIsRunningTime,
    FleetInstanceLife,
    FleetInstanceOperations,
    FleetInstanceReadinessTime,
    FleetInstances,
    FleetInternalOperations,
    FleetMaxInstances,
    FleetMaxTasksPerInstance,
    FleetMaxUseCountPerInstance,
    FleetMissedUpdates,
    FleetRefusals,
    FleetRemovals,
    FleetScaleOperations,
    FleetStateKept,
    FleetTaskOperations,
    FleetTasks,
}

impl Name {
    /// The name and what it counts.
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::ApiRequestDuration => {
                ("gitlab_runner_api_request_duration_seconds", "Latency of calls to GitLab's runner API.")
            }
            Self::ApiRequestRetries => (
                "gitlab_runner_api_request_retries_total",
                "Attempts at calls to GitLab's runner API, the first included.",
            ),
            Self::ApiRequestStatuses => {
                ("gitlab_runner_api_request_statuses_total", "Answers of GitLab's runner API by status.")
            }
            Self::Concurrent => ("gitlab_runner_concurrent", "Value of the concurrent setting."),
            Self::ConfigurationLoaded => {
                ("gitlab_runner_configuration_loaded_total", "Times that the config file was loaded.")
            }
            Self::ConfigurationLoadingError => {
                ("gitlab_runner_configuration_loading_error_total", "Times that the config file could not be loaded.")
            }
            Self::FailedJobsTotal => ("gitlab_runner_failed_jobs_total", "Failed jobs by reason."),
            Self::HealthCheckFailures => {
                ("gitlab_runner_worker_health_check_failures_total", "Requests for jobs that GitLab refused.")
            }
            Self::JobDuration => ("gitlab_runner_job_duration_seconds", "How long jobs ran."),
            Self::JobQueueDuration => {
                ("gitlab_runner_job_queue_duration_seconds", "How long jobs stood in GitLab's queue.")
            }
            Self::Jobs => ("gitlab_runner_jobs", "Jobs that run now."),
            Self::JobsTotal => ("gitlab_runner_jobs_total", "Jobs that were received."),
            Self::Limit => ("gitlab_runner_limit", "Value of the limit setting."),
            Self::ProcessState => ("gitlab_runner_process_state_info", "1 for the state that the process is in."),
            Self::ProcessingFailures => {
                ("gitlab_runner_worker_processing_failures_total", "Polls and jobs that came to nothing.")
            }
            Self::RequestConcurrency => ("gitlab_runner_request_concurrency", "Requests for jobs under way."),
            Self::RequestConcurrencyAdaptiveLimit => {
                ("gitlab_runner_request_concurrency_adaptive_limit", "Requests for jobs allowed at once, as learned.")
            }
            Self::RequestConcurrencyHardLimit => {
                ("gitlab_runner_request_concurrency_hard_limit", "Value of the request_concurrency setting.")
            }
            Self::StandingStill => {
                ("flotilla_standing_still", "Loops and pieces of work that gave no sign of life for too long.")
            }
            Self::Version => ("gitlab_runner_version_info", "1, with what this program is."),
            Self::FleetDesiredInstances => {
                ("fleeting_taskscaler_desired_instances", "Instances that serve and that are missing.")
            }
            Self::FleetFailures => ("flotilla_fleet_failures_total", "What went wrong with a fleet, by operation."),
            Self::FleetInstanceCreationTime => (
                "fleeting_provisioner_instance_creation_time_seconds",
                "From the request for an instance to its first listing.",
            ),
            Self::FleetInstanceDeletionTime => (
                "fleeting_provisioner_instance_deletion_time_seconds",
                "From the decision to delete an instance to its end.",
            ),
            Self::FleetInstanceIsRunningTime => (
                "fleeting_provisioner_instance_is_running_time_seconds",
                "From the request for an instance until it ran.",
            ),
            Self::FleetInstanceLife => {
                ("fleeting_provisioner_instance_life_duration_seconds", "From an instance's first listing to its end.")
            }
            Self::FleetInstanceOperations => {
                ("fleeting_provisioner_instance_operations_total", "Instances that were created and deleted.")
            }
            Self::FleetInstanceReadinessTime => (
                "fleeting_taskscaler_task_instance_readiness_time_seconds",
                "From an instance running until it could take jobs.",
            ),
            Self::FleetInstances => ("fleeting_provisioner_instances", "Instances by state."),
            Self::FleetInternalOperations => {
                ("fleeting_provisioner_internal_operations_total", "Calls to the group of instances.")
            }
            Self::FleetMaxInstances => {
                ("fleeting_provisioner_max_instances", "The most instances there may be, of any state.")
            }
            Self::FleetMaxTasksPerInstance => {
                ("fleeting_taskscaler_max_tasks_per_instance", "Value of the capacity_per_instance setting.")
            }
            Self::FleetMaxUseCountPerInstance => {
                ("fleeting_taskscaler_max_use_count_per_instance", "Value of the max_use_count setting; 0: no limit.")
            }
            Self::FleetMissedUpdates => {
                ("fleeting_provisioner_missed_updates_total", "Listings of the group that failed.")
            }
            Self::FleetRefusals => {
                ("flotilla_reservation_refusals_total", "Polls that were not made for want of capacity, by reason.")
            }
            Self::FleetRemovals => ("flotilla_instance_removals_total", "Instances that were given up, by reason."),
            Self::FleetScaleOperations => {
                ("fleeting_taskscaler_scale_operations_total", "Requests to grow and to shrink the group.")
            }
            Self::FleetStateKept => (
                "flotilla_fleet_state_kept",
                "1 while the fleet's state can be kept, 0 while that fails and nothing is done.",
            ),
            Self::FleetTaskOperations => {
                ("fleeting_taskscaler_task_operations_total", "What was asked of the taskscaler, and refused by it.")
            }
            Self::FleetTasks => ("fleeting_taskscaler_tasks", "Slots and claims on them by state."),
        }
    }

    fn opts(self) -> Opts {
        let (name, help) = self.describe();
        Opts::new(name, help)
    }
}

type Result<T> = std::result::Result<T, prometheus::Error>;

pub(super) fn counter(registry: &Registry, name: Name, labels: &[&str]) -> Result<IntCounterVec> {
    let metric = IntCounterVec::new(name.opts(), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn single(registry: &Registry, name: Name) -> Result<IntCounter> {
    let metric = IntCounter::with_opts(name.opts())?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn gauge(registry: &Registry, name: Name, labels: &[&str]) -> Result<IntGaugeVec> {
    let metric = IntGaugeVec::new(name.opts(), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn histogram(registry: &Registry, name: Name, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec> {
    let (metric, help) = name.describe();
    let metric = HistogramVec::new(HistogramOpts::new(metric, help).buckets(buckets.to_vec()), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
