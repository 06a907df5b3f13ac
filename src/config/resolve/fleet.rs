//! Rules across runners: two that share a group, an entry that stands twice, more capacity than jobs may run.

use crate::config::diagnostics::Spot;
use crate::config::raw::{self, Section};
use crate::config::resolve::context::Context;
use crate::config::resolved::{Config, PluginConfig, Runner};

pub(crate) fn check(raw: &raw::Config, config: &Config, context: &mut Context<'_>) {
    let entries: Vec<&raw::Runner> =
        raw.runners.iter().flat_map(|list| &list.value).map(|entry| &entry.value).collect();
    let pairs: Vec<(&raw::Runner, &Runner)> = entries.into_iter().zip(&config.runners).collect();
    for (index, (raw, runner)) in pairs.iter().enumerate() {
        let earlier = pairs.iter().take(index).map(|(_, other)| *other);
        twice(raw, runner, earlier.clone(), context);
        shared_group(raw, runner, earlier, context);
        unused_capacity(raw, runner, config.concurrent, context);
    }
}

/// The same runner of GitLab in two entries.
fn twice<'a>(
    raw: &raw::Runner,
    runner: &Runner,
    mut earlier: impl Iterator<Item = &'a Runner>,
    context: &mut Context<'_>,
) {
    let is_known = !runner.token.is_empty();
    if is_known && earlier.any(|other| !other.token.is_empty() && other.key() == runner.key()) {
        let message = "another entry above is the same runner, and only the first one is served";
        context.warning(raw.spot(), message).help("raise the limit of that one, or register another runner");
    }
}

/// Two runners that would each remove the other's instances.
fn shared_group<'a>(
    raw: &raw::Runner,
    runner: &Runner,
    mut earlier: impl Iterator<Item = &'a Runner>,
    context: &mut Context<'_>,
) {
    let Some(group) = runner.autoscaler.as_ref().and_then(|autoscaler| group(&autoscaler.plugin_config)) else {
        return;
    };
    let same = |other: &Runner| {
        other.autoscaler.as_ref().and_then(|other| self::group(&other.plugin_config)).as_ref() == Some(&group)
    };
    if earlier.any(same) {
        let spot = raw.autoscaler.as_ref().map_or_else(|| raw.spot(), |section| &section.spot);
        context.warning(
            spot,
            "another runner above uses the same group of instances: each would count and remove the other's",
        );
    }
}

/// What tells groups apart; nothing for those that cannot be shared by mistake.
fn group(plugin_config: &PluginConfig) -> Option<Vec<String>> {
    match plugin_config {
        PluginConfig::Aws(group) => {
            Some(vec!["aws".to_owned(), group.name.clone(), format!("{:?}{:?}", group.region, group.profile)])
        }
        PluginConfig::GoogleCloud(group) => Some(vec![
            "googlecloud".to_owned(),
            group.project.clone(),
            group.name.clone(),
            format!("{:?}{:?}", group.zone, group.region),
        ]),
        PluginConfig::Azure(set) => Some(vec![
            "azure".to_owned(),
            set.subscription_id.clone(),
            set.resource_group_name.clone(),
            set.name.clone(),
        ]),
        PluginConfig::Static(_) | PluginConfig::Local(_) => None,
    }
}

/// Instances that `concurrent` or `limit` leave without a job.
fn unused_capacity(raw: &raw::Runner, runner: &Runner, concurrent: u32, context: &mut Context<'_>) {
    let Some(autoscaler) = &runner.autoscaler else { return };
    let capacity = u64::from(autoscaler.max_instances) * u64::from(autoscaler.capacity_per_instance);
    let (bound, key) = match runner.limit {
        limit @ 1.. if limit < concurrent => (limit, "limit"),
        _ => (concurrent, "concurrent"),
    };
    if capacity > u64::from(bound) {
        let section = raw.autoscaler.as_ref().map_or_else(|| raw.spot(), |section| &section.spot);
        let spot = Spot { span: section.span.clone(), path: section.path.key("max_instances") };
        let message = format!("there can be room for {capacity} jobs at once, but {key} allows only {bound}");
        context.warning(&spot, message);
    }
}
