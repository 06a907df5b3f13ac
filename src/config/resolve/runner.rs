//! `[[runners]]` and its small sections.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::diagnostics::Spot;
use crate::config::raw::{self, At, Section};
use crate::config::resolve::context::{Context, flag, number, optional_flag, text, texts};
use crate::config::resolve::labels::{self, MAX_LABELS};
use crate::config::resolve::{autoscaler, cache, docker, feature_flags, machine, served};
use crate::config::resolved::{
    Artifact, BootVerify, ExecutorKind, Instance, JobQueuingDuration, Runner, Shell, SlotCgroups, TlsFiles,
};
use crate::config::types::period::Period;
use crate::config::types::placeholder::is_placeholder;
use crate::config::types::server_url::{ServerUrl, ends_in_ci};
use crate::secret::Secret;

/// KiB of a trace where the file does not say.
const DEFAULT_OUTPUT_LIMIT: u32 = 4096;

const DEFAULT_SLOT_TEMPLATE: &str = "gitlab-runner/slot-${slot}";

type Labels = BTreeMap<String, String>;

/// All entries in their order. Where no executor of any is known, that is an error; else the others can run.
pub(crate) fn resolve_all(runners: &[&raw::Runner], globals: &Labels, context: &mut Context<'_>) -> Vec<Runner> {
    let names = || runners.iter().filter_map(|runner| text(&runner.executor));
    let none_known = names().next().is_some() && names().all(|name| kind_of(&name).is_none());
    let unknown = if none_known { UnknownExecutor::Error } else { UnknownExecutor::Refusal };
    runners.iter().map(|runner| resolve(runner, globals, unknown, context)).collect()
}

fn resolve(raw: &raw::Runner, globals: &Labels, unknown: UnknownExecutor, context: &mut Context<'_>) -> Runner {
    let executor = executor(raw, unknown, context);
    let pre_get_sources = context.renamed(&raw.pre_get_sources_script, &raw.pre_clone_script, "pre_get_sources_script");
    let post_get_sources =
        context.renamed(&raw.post_get_sources_script, &raw.post_clone_script, "post_get_sources_script");
    let runner = Runner {
        name: text(&raw.name).unwrap_or_default(),
        url: url(raw, context),
        id: number(&raw.id),
        token: token(raw, context),
        token_obtained_at: raw.token_obtained_at.as_ref().and_then(|value| value.value.0),
        token_expires_at: raw.token_expires_at.as_ref().and_then(|value| value.value.0),
        tls: TlsFiles {
            ca_file: context.readable_file(&raw.tls_ca_file),
            cert_file: context.readable_file(&raw.tls_cert_file),
            key_file: context.readable_file(&raw.tls_key_file),
        },
        limit: context.limit(&raw.limit),
        request_concurrency: context.positive_count_or(&raw.request_concurrency, 1),
        strict_check_interval: flag(&raw.strict_check_interval),
        max_extracted_size: cache::max_size(&raw.max_extracted_size, context),
        output_limit: u64::from(context.positive_count_or(&raw.output_limit, DEFAULT_OUTPUT_LIMIT)) * 1024,
        unhealthy_requests_limit: context.positive_count_or(&raw.unhealthy_requests_limit, 3),
        unhealthy_interval: context.duration_or(&raw.unhealthy_interval, Duration::from_secs(3600)),
        job_status_final_update_retry_limit: context.positive_count_or(&raw.job_status_final_update_retry_limit, 10),
        executor,
        shell: shell(&raw.shell, context),
        builds_dir: text(&raw.builds_dir),
        cache_dir: text(&raw.cache_dir),
        environment: context.variables(&raw.environment),
        clone_url: text(&raw.clone_url),
        pre_get_sources_script: text(pre_get_sources),
        post_get_sources_script: text(post_get_sources),
        pre_build_script: text(&raw.pre_build_script),
        post_build_script: text(&raw.post_build_script),
        prepare_timeout: raw
            .prepare_timeout
            .as_ref()
            .and_then(|value| value.value.to_std())
            .filter(|time| !time.is_zero()),
        get_sources_timeout: raw
            .get_sources_timeout
            .as_ref()
            .and_then(|value| value.value.to_std())
            .filter(|time| !time.is_zero()),
        debug_trace_disabled: flag(&raw.debug_trace_disabled),
        safe_directory_checkout: optional_flag(&raw.safe_directory_checkout),
        clean_git_config: optional_flag(&raw.clean_git_config),
        proxy_exec: flag(&raw.proxy_exec),
        labels: all_labels(raw, globals, context),
        slot_cgroups: slot_cgroups(raw, context),
        step_runner_image: text(&raw.step_runner_image),
        custom_build_dir_enabled: raw
            .custom_build_dir
            .as_ref()
            .and_then(|section| optional_flag(&section.value.enabled)),
        artifact: artifact(raw, context),
        feature_flags: feature_flags::resolve(&raw.feature_flags, context),
        job_queuing_durations: job_queuing_durations(raw, context),
        boot_verify: boot_verify(raw, context),
        docker: docker::resolve(raw.docker.as_ref().map(|section| &section.value), context),
        cache: cache::resolve(raw.cache.as_ref().map(|section| &section.value), context),
        autoscaler: autoscaler::resolve(raw, executor, context),
        instance: instance(raw, context),
        machine: machine::resolve(raw, executor, context),
        refusals: Vec::new(),
    };
    feature_flags::note_unserved(&raw.environment, context);
    docker_without_image(raw, executor, &runner, context);
    foreign_sections(raw, executor, context);
    Runner { refusals: std::mem::take(&mut context.refusals), ..runner }
}

/// What becomes of an executor that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnknownExecutor {
    Error,
    Refusal,
}

fn kind_of(name: &str) -> Option<ExecutorKind> {
    ExecutorKind::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

fn executor(raw: &raw::Runner, unknown: UnknownExecutor, context: &mut Context<'_>) -> ExecutorKind {
    let Some(value) = raw.executor.as_ref().filter(|value| !value.value.is_empty()) else {
        context
            .refuse(&raw.spot().missing("executor"), "the key is missing")
            .help("write executor = \"docker-autoscaler\" or \"instance\"");
        return ExecutorKind::Unknown;
    };
    let Some(kind) = kind_of(&value.value) else {
        let help = match value.value.as_str() {
            "docker-ssh" | "docker-ssh+machine" => "it was removed; docker+machine took its place",
            "docker+autoscaler" => "did you mean docker-autoscaler?",
            _ => "the executors served here are docker-autoscaler and instance",
        };
        let message = format!("{:?} is no executor", value.value);
        match unknown {
            UnknownExecutor::Error => context.error(&value.spot, message).help(help),
            UnknownExecutor::Refusal => context.refuse(&value.spot, message).help(help),
        }
        return ExecutorKind::Unknown;
    };
    if !served::is_executor_served(kind) {
        let message = format!("the executor {} is not served yet", kind.as_str());
        context.refuse(&value.spot, message).help("the executors served here are docker-autoscaler and instance");
    }
    kind
}

fn url(raw: &raw::Runner, context: &mut Context<'_>) -> ServerUrl {
    let Some(value) = raw.url.as_ref().filter(|value| !value.value.is_empty()) else {
        context
            .refuse(&raw.spot().missing("url"), "the key is missing")
            .help("write url = \"https://gitlab.com\", or your server's address");
        return ServerUrl::placeholder();
    };
    let expanded = context.environment.expand(&value.value);
    if is_placeholder(&value.value) {
        context.refuse(&value.spot, "a placeholder stands in the place of the server's address");
        return ServerUrl::placeholder();
    }
    match expanded.parse() {
        Ok(url) => {
            if ends_in_ci(&expanded) {
                context.warning(&value.spot, "the final /ci is ignored").help("leave it out");
            }
            url
        }
        Err(error) if value.value.contains('$') => {
            context.refuse(
                &value.spot,
                format!("{expanded:?}, with the environment filled in, is no server's address: {error}"),
            );
            ServerUrl::placeholder()
        }
        Err(error) => {
            let message = format!("{:?} is no server's address: {error}", value.value);
            context.error(&value.spot, message).help("write it as \"https://gitlab.example.com\"");
            ServerUrl::placeholder()
        }
    }
}

/// The token with the environment filled in. A literal one does not contain a dollar.
fn token(raw: &raw::Runner, context: &mut Context<'_>) -> Secret {
    let Some(value) = &raw.token else {
        context.refuse(&raw.spot().missing("token"), "the key is missing").help("get one with `flotilla register`");
        return Secret::default();
    };
    if is_placeholder(value.value.expose()) {
        context.refuse(&value.spot, "a placeholder stands in the place of the token");
        return Secret::default();
    }
    let expanded = context.environment.expand(value.value.expose());
    if expanded.trim().is_empty() {
        let from_environment = !value.value.expose().trim().is_empty();
        let reason =
            if from_environment { "the token is empty with the environment filled in" } else { "the token is empty" };
        context.refuse(&value.spot, reason);
        return Secret::default();
    }
    Secret::new(expanded)
}

fn shell(value: &Option<At<String>>, context: &mut Context<'_>) -> Option<Shell> {
    let value = value.as_ref().filter(|value| !value.value.is_empty())?;
    let known = [Shell::Bash, Shell::Sh, Shell::Pwsh, Shell::PowerShell];
    let Some(shell) = known.into_iter().find(|shell| shell.as_str() == value.value) else {
        let message = format!("{:?} is no shell", value.value);
        context.error(&value.spot, message).help("write bash, sh, pwsh or powershell");
        return None;
    };
    if !served::is_shell_served(shell) {
        context.refuse(&value.spot, format!("the shell {} is not served yet", shell.as_str()));
    }
    Some(shell)
}

/// Global labels with the runner's own laid over them.
fn all_labels(raw: &raw::Runner, globals: &Labels, context: &mut Context<'_>) -> Labels {
    let own = labels::resolve(&raw.labels, context);
    let mut all = globals.clone();
    all.extend(own);
    if all.len() > MAX_LABELS {
        let spot = raw.labels.as_ref().map_or_else(|| raw.spot(), |table| &table.spot);
        let message = format!("with the global ones there are {} labels; {MAX_LABELS} are allowed", all.len());
        context.error(spot, message);
    }
    all
}

fn slot_cgroups(raw: &raw::Runner, context: &mut Context<'_>) -> Option<SlotCgroups> {
    let template = text(&raw.slot_cgroup_template).unwrap_or_else(|| DEFAULT_SLOT_TEMPLATE.to_owned());
    let service = raw.docker.as_ref().and_then(|section| section.value.service_slot_cgroup_template.as_ref());
    for value in raw.slot_cgroup_template.iter().chain(service).filter(|value| !value.value.is_empty()) {
        if !value.value.contains("$slot") && !value.value.contains("${slot}") {
            context
                .warning(&value.spot, "all slots share one control group")
                .help("write ${slot} where its number belongs");
        }
    }
    let service_template = service.map(|value| value.value.clone()).filter(|template| !template.is_empty());
    flag(&raw.use_slot_cgroups)
        .then(|| SlotCgroups { service_template: service_template.unwrap_or_else(|| template.clone()), template })
}

fn artifact(raw: &raw::Runner, context: &mut Context<'_>) -> Artifact {
    let defaults = Artifact::default();
    let Some(At { value: raw, .. }) = &raw.artifact else { return defaults };
    Artifact {
        upload_timeout: context.duration_or(&raw.upload_timeout, defaults.upload_timeout),
        response_header_timeout: context.duration_or(&raw.response_header_timeout, defaults.response_header_timeout),
        redirect_hosts: redirect_hosts(&raw.redirect_hosts, context),
    }
}

/// Hosts alone: what else a URL has would never match.
fn redirect_hosts(list: &Option<At<Vec<At<String>>>>, context: &mut Context<'_>) -> Vec<String> {
    for host in list.iter().flat_map(|list| &list.value).filter(|host| host.value.contains(['/', ':', '*', '@'])) {
        context
            .error(&host.spot, format!("{:?} is not a host's name", host.value))
            .help("write the name alone: \"uploads.example.com\"");
    }
    texts(list)
}

fn job_queuing_durations(raw: &raw::Runner, context: &mut Context<'_>) -> Vec<JobQueuingDuration> {
    let list = raw.monitoring.as_ref().and_then(|section| section.value.job_queuing_durations.as_ref());
    let entries: Vec<&raw::JobQueuingDuration> =
        list.iter().flat_map(|list| &list.value).map(|entry| &entry.value).collect();
    entries
        .into_iter()
        .map(|entry| JobQueuingDuration {
            periods: context.periods(&entry.periods, Period::parse_machine),
            timezone: context.timezone(&entry.timezone),
            threshold: entry.threshold.as_ref().and_then(|value| value.value.to_std()).unwrap_or_default(),
            jobs_running_for_project: text(&entry.jobs_running_for_project),
        })
        .filter(|entry| !entry.threshold.is_zero())
        .collect()
}

fn boot_verify(raw: &raw::Runner, context: &mut Context<'_>) -> Option<BootVerify> {
    let raw: &raw::BootVerify = &raw.experimental.as_ref()?.value.boot_verify.as_ref()?.value;
    let resolved = BootVerify {
        timeout: context.duration_or(&raw.timeout, Duration::from_secs(300)),
        acquire_min_backoff: context.duration_or(&raw.acquire_min_backoff, Duration::from_secs(1)),
        acquire_max_backoff: context.duration_or(&raw.acquire_max_backoff, Duration::from_secs(10)),
    };
    flag(&raw.enabled).then_some(resolved)
}

fn instance(raw: &raw::Runner, context: &mut Context<'_>) -> Instance {
    let Some(At { value: raw, .. }) = &raw.instance else { return Instance::default() };
    Instance {
        allowed_images: context.allow_list(&raw.allowed_images),
        use_common_build_dir: flag(&raw.use_common_build_dir),
    }
}

fn docker_without_image(raw: &raw::Runner, executor: ExecutorKind, runner: &Runner, context: &mut Context<'_>) {
    if executor.uses_docker() && runner.docker.image.is_none() {
        let spot = raw.docker.as_ref().map_or_else(|| raw.spot(), |section| &section.spot);
        let path = raw.spot().path.key("docker").key("image");
        let spot = Spot { span: spot.span.clone(), path };
        context.warning(&spot, "there is no default image: a job without one of its own fails");
    }
}

/// Sections that the chosen executor does not look at.
fn foreign_sections(raw: &raw::Runner, executor: ExecutorKind, context: &mut Context<'_>) {
    use ExecutorKind as E;
    let sections: [(Option<&Spot>, &[E]); 9] = [
        (raw.docker.as_ref().map(|at| &at.spot), &[E::Docker, E::DockerAutoscaler, E::DockerMachine, E::DockerWindows]),
        (raw.autoscaler.as_ref().map(|at| &at.spot), &[E::DockerAutoscaler, E::Instance]),
        (raw.instance.as_ref().map(|at| &at.spot), &[E::Instance]),
        (raw.machine.as_ref().map(|at| &at.spot), &[E::DockerMachine]),
        (raw.ssh.as_ref().map(|at| &at.spot), &[E::Ssh, E::Parallels, E::VirtualBox]),
        (raw.parallels.as_ref().map(|at| &at.spot), &[E::Parallels]),
        (raw.virtualbox.as_ref().map(|at| &at.spot), &[E::VirtualBox]),
        (raw.kubernetes.as_ref().map(|at| &at.spot), &[E::Kubernetes]),
        (raw.custom.as_ref().map(|at| &at.spot), &[E::Custom]),
    ];
    for (spot, executors) in sections {
        let Some(spot) = spot.filter(|_| executor != E::Unknown && !executors.contains(&executor)) else { continue };
        context.warning(spot, format!("the executor {} does not use this section", executor.as_str()));
    }
}
