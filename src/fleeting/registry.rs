//! From the name of a plugin to its provider.
//!
//! Providers are compiled in. Their settings are always read and checked with the rest of the file; only here does
//! it show whether this build can serve them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::environment::Environment;
use crate::config::resolved::{ConnectorConfig, PluginConfig};
use crate::fleeting::access::{InstanceConnector, Settings};
#[cfg(feature = "aws")]
use crate::fleeting::aws::AwsGroup;
use crate::fleeting::connector::Instance;
use crate::fleeting::group::{GroupError, GroupFacts, InstanceGroup};
use crate::fleeting::host_keys::HostKeys;
use crate::fleeting::local::{LocalGroup, Place};
use crate::fleeting::static_hosts::StaticGroup;
use crate::ids::InstanceId;

/// What providers need that is not in `plugin_config`.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Folder for the instances of `local` where the file names none: one for each runner.
    pub local_root: PathBuf,
    /// The running program, which `local` starts as its instances.
    pub executable: PathBuf,
    /// The process's own: proxies, credentials and endpoints of clouds. A provider reads no other.
    pub environment: Environment,
}

/// The provider of a group.
///
/// # Errors
/// [`GroupError::Misconfigured`] where this build does not have it.
pub fn provide(
    plugin: &PluginConfig,
    connector: &ConnectorConfig,
    surroundings: &Surroundings,
) -> Result<Arc<dyn InstanceGroup>, GroupError> {
    match plugin {
        PluginConfig::Static(hosts) => Ok(Arc::new(StaticGroup::new(hosts, connector))),
        PluginConfig::Local(settings) => {
            let root = settings.root.clone().unwrap_or_else(|| surroundings.local_root.clone());
            let place = Place { root, executable: surroundings.executable.clone() };
            Ok(Arc::new(LocalGroup::new(settings, place)))
        }
        #[cfg(feature = "aws")]
        PluginConfig::Aws(settings) => Ok(Arc::new(AwsGroup::new(settings, connector, &surroundings.environment))),
        #[cfg(not(feature = "aws"))]
        PluginConfig::Aws(_) => Err(not_in_this_build(plugin)),
        PluginConfig::GoogleCloud(_) | PluginConfig::Azure(_) => Err(not_in_this_build(plugin)),
    }
}

fn not_in_this_build(plugin: &PluginConfig) -> GroupError {
    let name = plugin.plugin().as_str();
    GroupError::Misconfigured { detail: format!("this build has no provider for plugin \"{name}\"") }
}

/// The way to a member of the group; nothing is dialed yet. Host keys are learnt into `host_keys` and checked there.
pub fn connect(
    id: InstanceId,
    group: Arc<dyn InstanceGroup>,
    settings: Settings,
    host_keys: HostKeys,
) -> Arc<dyn InstanceConnector> {
    Arc::new(Instance::new(id, group, settings, host_keys))
}

/// What is true of the groups of a provider.
pub fn facts(plugin: &PluginConfig) -> GroupFacts {
    match plugin {
        PluginConfig::Static(hosts) => StaticGroup::facts(hosts),
        PluginConfig::Local(settings) => LocalGroup::facts(settings),
        PluginConfig::Aws(_) | PluginConfig::GoogleCloud(_) | PluginConfig::Azure(_) => GroupFacts {
            instances_are_destroyed: true,
            engine_survives_instance: false,
            runs_this_binary: false,
            max_size: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::resolved::{AzureScaleSet, StaticHosts};

    fn surroundings() -> Surroundings {
        Surroundings {
            local_root: "/nonexistent".into(),
            executable: "/nonexistent/flotilla".into(),
            environment: Environment::default(),
        }
    }

    #[test]
    fn a_provider_that_is_not_compiled_in_is_named() {
        let azure = AzureScaleSet {
            name: "group".to_owned(),
            subscription_id: "1".to_owned(),
            resource_group_name: "ci".to_owned(),
            endpoint: None,
            authority_host: None,
        };
        let error = provide(&PluginConfig::Azure(azure), &ConnectorConfig::default(), &surroundings()).unwrap_err();
        assert_eq!(error.to_string(), "this build has no provider for plugin \"azure\"");
        assert!(!error.is_retryable());
    }

    #[tokio::test]
    async fn static_hosts_need_nothing_from_outside() {
        let hosts = StaticHosts { instances: BTreeMap::new() };
        let group = provide(&PluginConfig::Static(hosts), &ConnectorConfig::default(), &surroundings()).unwrap();
        assert_eq!(group.init().await.unwrap().id, "static");
    }
}
