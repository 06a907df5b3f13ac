//! What the process counts, under GitLab Runner's names so that dashboards go on working.
//!
//! Counters and histograms are moved by the events that are also logged. Gauges are not kept here: they
//! are set from a snapshot when `/metrics` is read ([`Metrics::render`]). What a taskscaler counts is all in its
//! snapshot, so it comes and goes with its runner.

mod fleets;
mod names;

use std::time::Duration;

use prometheus::{Encoder, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry, TextEncoder};

pub use fleets::FleetReading;
pub use names::Name;

use super::registry::RunningJob;
use crate::gitlab::observer::{CallObserver, CallReport};

/// The labels that every series of a runner carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerLabels {
    /// The short token.
    pub runner: String,
    pub runner_name: String,
    pub system_id: String,
}

impl RunnerLabels {
    fn values(&self) -> [&str; 3] {
        [&self.runner, &self.runner_name, &self.system_id]
    }
}

const RUNNER: [&str; 3] = ["runner", "runner_name", "system_id"];

/// What a runner holds at the moment of reading.
#[derive(Clone, Debug)]
pub struct RunnerReading {
    pub labels: RunnerLabels,
    pub limit: u32,
    pub jobs: Vec<RunningJob>,
    pub requests: u32,
    pub request_limit: u32,
    pub request_hard_limit: u32,
}

/// Everything that is only true now.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub concurrent: u32,
    /// As `/debug/process/state` names it.
    pub process_state: &'static str,
    /// Loops, and work for a poll or job.
    pub standing_still: usize,
    pub runners: Vec<RunnerReading>,
    pub fleets: Vec<FleetReading>,
}

/// All metrics of the process. One for its whole life, shared.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs_total: IntCounterVec,
    failed_jobs_total: IntCounterVec,
    job_duration: HistogramVec,
    queue_duration: HistogramVec,
    request_statuses: IntCounterVec,
    request_duration: HistogramVec,
    request_retries: IntCounterVec,
    processing_failures: IntCounterVec,
    health_failures: IntCounterVec,
    configuration_loaded: IntCounter,
    configuration_loading_error: IntCounter,
    concurrent: IntGaugeVec,
    limit: IntGaugeVec,
    jobs: IntGaugeVec,
    requests: IntGaugeVec,
    request_adaptive_limit: IntGaugeVec,
    request_hard_limit: IntGaugeVec,
    process_state: IntGaugeVec,
    standing_still: IntGaugeVec,
    version: IntGaugeVec,
}

/// Seconds a job runs, as the reference buckets them.
const JOB_SECONDS: &[f64] = &[30., 60., 300., 600., 1800., 3600., 7200., 10800., 18000., 36000.];
const QUEUE_SECONDS: &[f64] = &[1., 3., 10., 30., 60., 120., 300., 900., 1800., 3600.];
const API_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60.];

impl Metrics {
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let with = |labels: &[&'static str]| [&RUNNER[..], labels].concat();
        let metrics = Self {
            jobs_total: names::counter(&registry, Name::JobsTotal, &RUNNER)?,
            failed_jobs_total: names::counter(
                &registry,
                Name::FailedJobsTotal,
                &["runner", "runner_name", "failure_reason", "mode"],
            )?,
            job_duration: names::histogram(&registry, Name::JobDuration, &with(&["mode"]), JOB_SECONDS)?,
            queue_duration: names::histogram(
                &registry,
                Name::JobQueueDuration,
                &with(&["project_jobs_running"]),
                QUEUE_SECONDS,
            )?,
            request_statuses: names::counter(
                &registry,
                Name::ApiRequestStatuses,
                &["runner", "system_id", "endpoint", "status", "method"],
            )?,
            request_duration: names::histogram(
                &registry,
                Name::ApiRequestDuration,
                &["runner", "system_id", "endpoint", "status_class", "method"],
                API_SECONDS,
            )?,
            request_retries: names::counter(&registry, Name::ApiRequestRetries, &["path", "method"])?,
            processing_failures: names::counter(&registry, Name::ProcessingFailures, &with(&["failure_type"]))?,
            health_failures: names::counter(&registry, Name::HealthCheckFailures, &RUNNER)?,
            configuration_loaded: names::single(&registry, Name::ConfigurationLoaded)?,
            configuration_loading_error: names::single(&registry, Name::ConfigurationLoadingError)?,
            concurrent: names::gauge(&registry, Name::Concurrent, &[])?,
            limit: names::gauge(&registry, Name::Limit, &RUNNER)?,
            jobs: names::gauge(&registry, Name::Jobs, &with(&["state", "stage", "executor_stage"]))?,
            requests: names::gauge(&registry, Name::RequestConcurrency, &["runner", "system_id"])?,
            request_adaptive_limit: names::gauge(
                &registry,
                Name::RequestConcurrencyAdaptiveLimit,
                &["runner", "system_id"],
            )?,
            request_hard_limit: names::gauge(&registry, Name::RequestConcurrencyHardLimit, &["runner", "system_id"])?,
            process_state: names::gauge(&registry, Name::ProcessState, &["state"])?,
            standing_still: names::gauge(&registry, Name::StandingStill, &[])?,
            version: names::gauge(&registry, Name::Version, &["name", "version", "revision", "os", "architecture"])?,
            registry,
        };
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let version = [
            "flotilla",
            crate::gitlab::COMPATIBLE_VERSION,
            crate::gitlab::REVISION,
            std::env::consts::OS,
            std::env::consts::ARCH,
        ];
        metrics.version.with_label_values(&version).set(1);
        Ok(metrics)
    }

    /// A job was received; `waited` is how long it stood in GitLab's queue.
    pub fn job_received(&self, runner: &RunnerLabels, waited: Duration, project_jobs_running: &str) {
        self.jobs_total.with_label_values(&runner.values()).inc();
        let [short, name, system] = runner.values();
        self.queue_duration
            .with_label_values(&[short, name, system, project_jobs_running])
            .observe(waited.as_secs_f64());
    }

    /// A job has ended. `failure_reason` is the reason before it is mapped to what the server knows.
    pub fn job_finished(&self, runner: &RunnerLabels, took: Duration, failure_reason: Option<&str>) {
        let [short, name, system] = runner.values();
        self.job_duration.with_label_values(&[short, name, system, "traditional"]).observe(took.as_secs_f64());
        if let Some(reason) = failure_reason {
            self.failed_jobs_total.with_label_values(&[short, name, reason, "traditional"]).inc();
        }
    }

    /// A poll brought nothing to do: `no_free_executor` or `other`; a job failed: `job_failure`.
    pub fn processing_failed(&self, runner: &RunnerLabels, failure_type: &str) {
        let [short, name, system] = runner.values();
        self.processing_failures.with_label_values(&[short, name, system, failure_type]).inc();
    }

    pub fn health_check_failed(&self, runner: &RunnerLabels) {
        self.health_failures.with_label_values(&runner.values()).inc();
    }

    pub fn configuration_loaded(&self, ok: bool) {
        if ok { self.configuration_loaded.inc() } else { self.configuration_loading_error.inc() }
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// The encoder's, on values that have no text.
    pub fn render(&self, reading: &Reading) -> Result<Vec<u8>, prometheus::Error> {
        self.set_gauges(reading);
        let mut text = Vec::new();
        let mut families = fleets::families(&reading.fleets);
        families.extend(self.registry.gather());
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }

    fn set_gauges(&self, reading: &Reading) {
        for gauge in [
            &self.limit,
            &self.jobs,
            &self.requests,
            &self.request_adaptive_limit,
            &self.request_hard_limit,
            &self.process_state,
        ] {
            gauge.reset();
        }
        self.concurrent.with_label_values::<&str>(&[]).set(reading.concurrent.into());
        self.process_state.with_label_values(&[reading.process_state]).set(1);
        let standing_still = i64::try_from(reading.standing_still).unwrap_or(i64::MAX);
        self.standing_still.with_label_values::<&str>(&[]).set(standing_still);
        for runner in &reading.runners {
            let [short, name, system] = runner.labels.values();
            self.limit.with_label_values(&[short, name, system]).set(runner.limit.into());
            self.requests.with_label_values(&[short, system]).set(runner.requests.into());
            self.request_adaptive_limit.with_label_values(&[short, system]).set(runner.request_limit.into());
            self.request_hard_limit.with_label_values(&[short, system]).set(runner.request_hard_limit.into());
            // The reference always has this one, so that a dashboard knows the runner without jobs.
            self.jobs.with_label_values(&[short, name, system, "idle", "idle", "idle"]).set(0);
            for job in &runner.jobs {
                self.jobs.with_label_values(&[short, name, system, job.state, &job.stage, ""]).inc();
            }
        }
    }
}

/// Counts the API calls of one runner's client.
#[derive(Debug)]
pub struct ApiCalls {
    pub metrics: std::sync::Arc<Metrics>,
    pub labels: RunnerLabels,
}

impl CallObserver for ApiCalls {
    fn observe(&self, call: &CallReport<'_>) {
        let [runner, _, system] = self.labels.values();
        let endpoint = call.endpoint.label();
        let status = call.status.map_or_else(|| "-1".to_owned(), |status| status.to_string());
        let class = call.status.map_or_else(|| "unknown".to_owned(), |status| format!("{}xx", status / 100));
        self.metrics.request_statuses.with_label_values(&[runner, system, endpoint, &status, call.method]).inc();
        let labels = [runner, system, endpoint, &class, call.method];
        self.metrics.request_duration.with_label_values(&labels).observe(call.duration.as_secs_f64());
        self.metrics.request_retries.with_label_values(&[call.path, call.method]).inc_by(u64::from(call.attempts));
    }
}

#[cfg(test)]
mod tests;
