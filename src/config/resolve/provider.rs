//! `plugin` and `plugin_config`: the provider of an instance group, with its settings checked by its own keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::diagnostics::Spot;
use crate::config::raw::{self, At, Deferred, Section};
use crate::config::resolve::autoscaler::{operating_system, port, protocol};
use crate::config::resolve::context::{Context, secret, text};
use crate::config::resolve::served;
use crate::config::resolved::{
    AwsGroup, AzureScaleSet, GoogleCloudGroup, LocalGroup, PluginConfig, StaticHost, StaticHosts,
};
use crate::config::types::host_key::HostKeyText;
use crate::config::types::plugin::Plugin;

/// `None` after an error.
pub(crate) fn resolve(raw: &raw::Autoscaler, context: &mut Context<'_>) -> Option<PluginConfig> {
    let plugin = plugin(raw, context)?;
    let section = &raw.plugin_config;
    let spot = section.as_ref().map_or_else(|| raw.spot().missing("plugin_config"), |section| section.spot.clone());
    match plugin {
        Plugin::Aws => aws(section, &spot, context).map(PluginConfig::Aws),
        Plugin::GoogleCloud => google_cloud(section, &spot, context).map(PluginConfig::GoogleCloud),
        Plugin::Azure => azure(section, &spot, context).map(PluginConfig::Azure),
        Plugin::Static => static_hosts(section, &spot, context).map(PluginConfig::Static),
        Plugin::Local => local(section, context).map(PluginConfig::Local),
    }
}

fn plugin(raw: &raw::Autoscaler, context: &mut Context<'_>) -> Option<Plugin> {
    let Some(value) = raw.plugin.as_ref().filter(|value| !value.value.is_empty()) else {
        let problem = context.error(&raw.spot().missing("plugin"), "the key is missing");
        problem.help("write plugin = \"aws\", \"googlecloud\", \"azure\", \"static\" or \"local\"");
        return None;
    };
    let (plugin, constraint) = match Plugin::parse(&value.value) {
        Ok(parsed) => parsed,
        Err(error) => {
            context.error(&value.spot, format!("{:?} is no provider: {error}", value.value));
            return None;
        }
    };
    if let Some(constraint) = constraint {
        context.warning(&value.spot, format!("providers are compiled in: the version {constraint} is ignored"));
    }
    if !served::is_provider_compiled_in(plugin) {
        context.refuse(&value.spot, format!("the provider {plugin} is not part of this build"));
    }
    Some(plugin)
}

/// A key that the provider cannot do without.
fn required(value: &Option<At<String>>, key: &str, spot: &Spot, context: &mut Context<'_>) -> Option<String> {
    let found = text(value);
    if found.is_none() {
        context.error(&spot.missing(key), "the key is missing: the provider needs it");
    }
    found
}

fn read<T: raw::Decode>(section: &Option<At<Deferred>>, spot: &Spot, context: &mut Context<'_>) -> Option<T> {
    let Some(section) = section else {
        context.error(spot, "the section is missing: the provider needs it");
        return None;
    };
    section.read(&mut context.reader)
}

fn aws(section: &Option<At<Deferred>>, spot: &Spot, context: &mut Context<'_>) -> Option<AwsGroup> {
    let raw: raw::AwsPlugin = read(section, spot, context)?;
    Some(AwsGroup {
        name: required(&raw.name, "name", spot, context)?,
        profile: text(&raw.profile),
        config_file: context.readable_file(&raw.config_file),
        credentials_file: context.readable_file(&raw.credentials_file),
        region: text(&raw.region),
        endpoint_url: text(&raw.endpoint_url),
    })
}

fn google_cloud(section: &Option<At<Deferred>>, spot: &Spot, context: &mut Context<'_>) -> Option<GoogleCloudGroup> {
    let raw: raw::GoogleCloudPlugin = read(section, spot, context)?;
    let (zone, region) = (text(&raw.zone), text(&raw.region));
    match (&raw.zone, &raw.region) {
        (Some(_), Some(region)) => {
            context.error(&region.spot, "a group has a zone or a region, not both").help("delete one of them");
        }
        (None, None) => {
            context.error(&spot.missing("zone"), "the key is missing: the provider needs it");
        }
        (Some(zone), None) if looks_like_region(&zone.value) => {
            let message = format!("{:?} is a region, not a zone", zone.value);
            context
                .warning(&zone.spot, message)
                .help(format!("write \"{}-b\", or region in the place of zone", zone.value));
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    let (name, project) =
        (required(&raw.name, "name", spot, context), required(&raw.project, "project", spot, context));
    Some(GoogleCloudGroup {
        name: name?,
        project: project?,
        zone,
        region,
        credentials_file: context.readable_file(&raw.credentials_file),
        endpoint: text(&raw.endpoint),
    })
}

/// A zone ends in a letter of its own: `europe-west1-b`.
fn looks_like_region(zone: &str) -> bool {
    zone.rsplit('-').next().is_some_and(|last| last.len() > 1)
}

fn azure(section: &Option<At<Deferred>>, spot: &Spot, context: &mut Context<'_>) -> Option<AzureScaleSet> {
    let raw: raw::AzurePlugin = read(section, spot, context)?;
    let name = required(&raw.name, "name", spot, context);
    let subscription_id = required(&raw.subscription_id, "subscription_id", spot, context);
    let resource_group_name = required(&raw.resource_group_name, "resource_group_name", spot, context);
    Some(AzureScaleSet {
        name: name?,
        subscription_id: subscription_id?,
        resource_group_name: resource_group_name?,
        endpoint: text(&raw.endpoint),
        authority_host: text(&raw.authority_host),
    })
}

fn static_hosts(section: &Option<At<Deferred>>, spot: &Spot, context: &mut Context<'_>) -> Option<StaticHosts> {
    let raw: raw::StaticPlugin = read(section, spot, context)?;
    let entries: Vec<(&String, &At<raw::StaticInstance>)> =
        raw.instances.iter().flat_map(|table| &table.value).collect();
    if entries.is_empty() {
        let problem = context.error(&spot.missing("instances"), "there is no instance");
        problem.help("write [runners.autoscaler.plugin_config.instances.NAME] with external_addr = \"host\"");
    }
    let mut instances = BTreeMap::new();
    for (name, entry) in entries {
        instances.insert(name.clone(), static_host(&entry.value, context));
    }
    Some(StaticHosts { instances })
}

fn static_host(raw: &raw::StaticInstance, context: &mut Context<'_>) -> StaticHost {
    let (external_addr, internal_addr) = (text(&raw.external_addr), text(&raw.internal_addr));
    if external_addr.is_none() && internal_addr.is_none() {
        context
            .error(&raw.spot().missing("external_addr"), "the instance has no address")
            .help("write external_addr = \"host\" or \"host:port\"");
    }
    StaticHost {
        external_addr,
        internal_addr,
        username: text(&raw.username),
        password: secret(&raw.password),
        key_path: context.readable_file(&raw.key_path),
        protocol: protocol(&raw.protocol, context),
        port: port(&raw.port, context),
        os: operating_system(&raw.os, context),
        arch: text(&raw.arch),
        timeout: context.duration(&raw.timeout),
        host_key: host_key(&raw.host_key, context),
    }
}

fn host_key(raw: &Option<At<String>>, context: &mut Context<'_>) -> Option<HostKeyText> {
    let raw = raw.as_ref()?;
    match raw.value.parse() {
        Ok(key) => Some(key),
        Err(error) => {
            let problem = context.error(&raw.spot, format!("invalid public key: {error}"));
            problem.help(
                "write host_key = \"ssh-ed25519 AAAA…\", the content of /etc/ssh/ssh_host_ed25519_key.pub of the host",
            );
            None
        }
    }
}

/// All keys are optional, the section too.
fn local(section: &Option<At<Deferred>>, context: &mut Context<'_>) -> Option<LocalGroup> {
    let Some(section) = section else { return Some(LocalGroup::default()) };
    let raw: raw::LocalPlugin = section.read(&mut context.reader)?;
    let max_size = context.count(&raw.max_size);
    Some(LocalGroup {
        max_size: (max_size > 0).then_some(max_size),
        boot_time: context.duration(&raw.boot_time).unwrap_or_default(),
        root: text(&raw.root).map(PathBuf::from),
    })
}
