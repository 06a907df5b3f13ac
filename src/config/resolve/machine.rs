//! `[runners.machine]`.

use std::time::Duration;

use crate::config::raw::{self, At, Section};
use crate::config::resolve::context::{Context, text, texts};
use crate::config::resolved::{ExecutorKind, Idle, Machine, MachinePeriod};
use crate::config::types::period::Period;
use crate::config::types::timezone::Timezone;

const DEFAULT_REMOVAL_ATTEMPTS: u32 = 30;

/// What stands for the machine's name in names and options.
const NAME_MARK: &str = "%s";

pub(crate) fn resolve(runner: &raw::Runner, executor: ExecutorKind, context: &mut Context<'_>) -> Option<Machine> {
    let wanted = executor == ExecutorKind::DockerMachine;
    let Some(At { value: raw, spot }) = &runner.machine else {
        if wanted {
            context.refuse(&runner.spot().missing("machine"), "the section is missing: docker+machine needs it");
        }
        return None;
    };
    if wanted && text(&raw.machine_name).is_none() {
        context.refuse(&spot.missing("MachineName"), "the key is missing").help("write MachineName = \"runner-%s\"");
    }
    Some(Machine {
        max_growth_rate: context.limit(&raw.max_growth_rate),
        idle: idle(&raw.idle_count, &raw.idle_scale_factor, &raw.idle_count_min, &raw.idle_time, context),
        max_builds: context.limit(&raw.max_builds),
        driver: text(&raw.machine_driver),
        name: name(&raw.machine_name, context),
        options: texts(&raw.machine_options),
        options_with_name: options_with_name(raw, context),
        max_removal_attempts: context.positive_count_or(&raw.max_removal_attempts, DEFAULT_REMOVAL_ATTEMPTS),
        autoscaling: autoscaling(raw, context),
    })
}

fn name(value: &Option<At<String>>, context: &mut Context<'_>) -> Option<String> {
    let value = value.as_ref().filter(|value| !value.value.is_empty())?;
    if !value.value.contains(NAME_MARK) {
        let message = format!("{:?} would name every machine the same", value.value);
        context.error(&value.spot, message).help(format!("write \"{}-%s\"", value.value));
    }
    Some(value.value.clone())
}

fn options_with_name(raw: &raw::Machine, context: &mut Context<'_>) -> Vec<String> {
    for option in raw.machine_options_with_name.iter().flat_map(|list| &list.value) {
        if !option.value.contains(NAME_MARK) {
            // Options hold passwords: it is not told which.
            context
                .error(&option.spot, "the option has no %s for the machine's name")
                .help("options without a name stand in MachineOptions");
        }
    }
    texts(&raw.machine_options_with_name)
}

fn idle(
    count: &Option<At<i64>>,
    scale_factor: &Option<At<f64>>,
    count_min: &Option<At<i64>>,
    time: &Option<At<i64>>,
    context: &mut Context<'_>,
) -> Idle {
    let scale_factor = match scale_factor {
        Some(factor) if factor.value < 0.0 => {
            context.error(&factor.spot, format!("it cannot be negative: {}", factor.value));
            0.0
        }
        Some(factor) => factor.value,
        None => 0.0,
    };
    let count_min = context.count(count_min);
    Idle {
        count: context.count(count),
        scale_factor,
        count_min: if scale_factor > 0.0 { count_min.max(1) } else { count_min },
        time: Duration::from_secs(context.count(time).into()),
    }
}

fn autoscaling(raw: &raw::Machine, context: &mut Context<'_>) -> Vec<MachinePeriod> {
    let entries: Vec<&raw::MachineAutoscaling> =
        raw.autoscaling.iter().flat_map(|list| &list.value).map(|entry| &entry.value).collect();
    let off_peak = off_peak(raw, !entries.is_empty(), context);
    let mut resolved: Vec<MachinePeriod> = off_peak.into_iter().collect();
    for entry in entries {
        let periods = context.periods(&entry.periods, Period::parse_machine);
        if periods.is_empty() {
            context.warning(entry.spot(), "without Periods this entry is never in force");
        }
        resolved.push(MachinePeriod {
            periods,
            timezone: context.timezone(&entry.timezone),
            idle: idle(&entry.idle_count, &entry.idle_scale_factor, &entry.idle_count_min, &entry.idle_time, context),
        });
    }
    resolved
}

/// The off-peak keys as an entry of the lowest priority. They were never checked in the reference, so that what is
/// wrong with them is a warning; beside `[[runners.machine.autoscaling]]` they do not count.
fn off_peak(raw: &raw::Machine, superseded: bool, context: &mut Context<'_>) -> Option<MachinePeriod> {
    let list = raw.off_peak_periods.as_ref().filter(|list| !list.value.is_empty())?;
    if superseded {
        let message = "the off-peak keys are ignored beside [[runners.machine.autoscaling]]";
        context.warning(&list.spot, message).help("delete them");
        return None;
    }
    let message = "the reference has ignored the off-peak keys since 14.0; they are used here";
    context.warning(&list.spot, message).help("write them as a [[runners.machine.autoscaling]]");
    let mut periods = Vec::new();
    for text in &list.value {
        match Period::parse_machine(&text.value) {
            Ok(parsed) => periods.push(parsed.period),
            Err(error) => {
                context.warning(&text.spot, format!("{:?} is no period and never in force: {error}", text.value));
            }
        }
    }
    let timezone = raw.off_peak_timezone.as_ref().map_or_else(
        || Ok(Timezone::system()),
        |name| {
            name.value.parse().inspect_err(|error| {
                context.warning(&name.spot, format!("{:?}: {error}; the system's is used", name.value));
            })
        },
    );
    Some(MachinePeriod {
        periods,
        timezone: timezone.unwrap_or_else(|_| Timezone::system()),
        idle: idle(&raw.off_peak_idle_count, &None, &None, &raw.off_peak_idle_time, context),
    })
}
