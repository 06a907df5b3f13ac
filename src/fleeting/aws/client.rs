//! The SDKs' clients, as this program's configuration and environment want them.
//!
//! Credentials and region come by the usual chain of AWS: environment, profile (also SSO and roles), web identity,
//! container, instance metadata. The SDKs try nothing again: the taskscaler does, with its back-off.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_autoscaling::config::{FrameworkMetadata, ProvideCredentials, SharedHttpClient};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_types::os_shim_internal::Env;

use crate::config::environment::Environment;
use crate::config::resolved::AwsGroup as Settings;
use crate::error_chain::Chain;
use crate::fleeting::group::{GroupError, Operation};

/// A handshake with a region on the other side of the world takes a second.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest answer, a page of a thousand instances, takes some seconds.
const ATTEMPT: Duration = Duration::from_secs(25);

/// Credentials in the environment.
const KEYS: [&str; 4] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// The clients of one group.
#[derive(Debug)]
pub(super) struct Clients {
    pub autoscaling: aws_sdk_autoscaling::Client,
    pub ec2: aws_sdk_ec2::Client,
    pub connect: aws_sdk_ec2instanceconnect::Client,
    pub region: String,
    /// Empty where AWS's own are meant.
    pub endpoint: String,
}

impl Clients {
    /// Looks for region and credentials.
    ///
    /// # Errors
    /// Where one of them is not found, or a setting is no good.
    pub(super) async fn new(settings: &Settings, environment: &Environment) -> Result<Self, GroupError> {
        let config = sdk_config(settings, environment).await?;
        let region = config.region().map(|region| region.as_ref().to_owned()).ok_or_else(|| {
            let detail = "there is no AWS region: write region in plugin_config, or set AWS_REGION";
            GroupError::Misconfigured { detail: detail.to_owned() }
        })?;
        check_credentials(settings, &config).await?;
        Ok(Self {
            autoscaling: aws_sdk_autoscaling::Client::new(&config),
            ec2: aws_sdk_ec2::Client::new(&config),
            connect: aws_sdk_ec2instanceconnect::Client::new(&config),
            region,
            endpoint: config.endpoint_url().unwrap_or_default().to_owned(),
        })
    }
}

async fn sdk_config(settings: &Settings, environment: &Environment) -> Result<SdkConfig, GroupError> {
    let variables = variables(settings, environment);
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .env(Env::from_slice(&variables))
        .http_client(http_client(settings, environment)?)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    if let Ok(this) = FrameworkMetadata::new("flotilla", Some(env!("CARGO_PKG_VERSION"))) {
        loader = loader.framework_metadata(this);
    }
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &settings.endpoint_url {
        loader = loader.endpoint_url(endpoint);
    }
    Ok(loader.load().await)
}

/// The environment as the SDKs are to see it: what the settings name comes first, as with the reference's SDK. A profile
/// that is named counts before keys of the environment.
fn variables(settings: &Settings, environment: &Environment) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<_, _> =
        environment.variables().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    if settings.profile.is_some() {
        variables.retain(|name, _| !KEYS.contains(&name.as_str()));
    }
    let files =
        [("AWS_CONFIG_FILE", &settings.config_file), ("AWS_SHARED_CREDENTIALS_FILE", &settings.credentials_file)];
    for (name, path) in files {
        if let Some(path) = path {
            variables.insert(name.to_owned(), path.to_string_lossy().into_owned());
        }
    }
    variables
}

/// Asks once for what every call needs: the error of a call would not say that this is what was missing.
async fn check_credentials(settings: &Settings, config: &SdkConfig) -> Result<(), GroupError> {
    let Some(provider) = config.credentials_provider() else { return Ok(()) };
    let Err(error) = provider.provide_credentials().await else { return Ok(()) };
    let profile = settings.profile.as_ref().map(|profile| format!(" for profile {profile}")).unwrap_or_default();
    let detail = format!("there are no usable AWS credentials{profile}: {}", Chain(&error));
    Err(GroupError::Denied { operation: Operation::Init, detail })
}

/// HTTP by the proxies and authorities of the environment. The instance's own metadata are never behind a proxy.
fn http_client(settings: &Settings, environment: &Environment) -> Result<SharedHttpClient, GroupError> {
    let endpoint = settings.endpoint_url.as_deref().or_else(|| environment.get("AWS_ENDPOINT_URL"));
    let proxy = proxy(endpoint.unwrap_or("https://"), environment)?;
    let mut trust = TrustStore::default();
    if let Some(path) = environment.get("AWS_CA_BUNDLE") {
        let pem = fs::read(path).map_err(|error| misconfigured(format!("AWS_CA_BUNDLE, {path}: {error}")))?;
        trust = trust.with_pem_certificate(pem);
    }
    let tls = TlsContext::builder().with_trust_store(trust).build();
    let tls = tls.map_err(|error| misconfigured(format!("the authorities of AWS_CA_BUNDLE: {}", Chain(&error))))?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector
            .proxy_config(proxy.clone())
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls.clone())
            .build()
    }))
}

fn proxy(endpoint: &str, environment: &Environment) -> Result<ProxyConfig, GroupError> {
    let plain = endpoint.starts_with("http://");
    let names = if plain { ["HTTP_PROXY", "http_proxy"] } else { ["HTTPS_PROXY", "https_proxy"] };
    let of = |names: &[&'static str]| names.iter().find_map(|name| Some((*name, environment.get(name)?)));
    let Some((name, url)) = of(&names).or_else(|| of(&["ALL_PROXY", "all_proxy"])) else {
        return Ok(ProxyConfig::disabled());
    };
    let proxy = if plain { ProxyConfig::http(url) } else { ProxyConfig::https(url) };
    // Its address may hold a password.
    let proxy = proxy.map_err(|_| misconfigured(format!("{name} is no address of a proxy: write http://HOST:PORT")))?;
    Ok(match of(&["NO_PROXY", "no_proxy"]) {
        Some((_, hosts)) => proxy.no_proxy(hosts),
        None => proxy,
    })
}

fn misconfigured(detail: String) -> GroupError {
    GroupError::Misconfigured { detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            name: "g".to_owned(),
            profile: None,
            config_file: None,
            credentials_file: None,
            region: Some("eu-central-1".to_owned()),
            endpoint_url: None,
        }
    }

    async fn refused(settings: &Settings, environment: &[(&str, &str)]) -> String {
        let environment = environment.iter().copied().chain([("AWS_EC2_METADATA_DISABLED", "true")]);
        Clients::new(settings, &environment.collect()).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let nowhere = Settings { region: None, ..settings() };
        let said = refused(&nowhere, &[]).await;
        assert!(said.starts_with("there is no AWS region: write region in plugin_config"), "{said}");
        let said = refused(&settings(), &[]).await;
        assert!(said.contains("there are no usable AWS credentials"), "{said}");
        let said = refused(&settings(), &[("HTTPS_PROXY", "ftp://user:secret@proxy")]).await;
        assert_eq!(said, "HTTPS_PROXY is no address of a proxy: write http://HOST:PORT");
        let said = refused(&settings(), &[("AWS_CA_BUNDLE", "/nonexistent")]).await;
        assert!(said.starts_with("AWS_CA_BUNDLE, /nonexistent: No such file"), "{said}");
    }

    #[tokio::test]
    async fn profile_and_files_of_the_settings_count() {
        let folder = tempfile::tempdir().unwrap();
        let (config, credentials) = (folder.path().join("config"), folder.path().join("credentials"));
        fs::write(&config, "[profile ci]\nregion = eu-west-3\n").unwrap();
        fs::write(&credentials, "[ci]\naws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
        let settings = Settings {
            profile: Some("ci".to_owned()),
            config_file: Some(config),
            credentials_file: Some(credentials),
            region: None,
            ..settings()
        };
        let other_keys = Environment::from_iter([("AWS_ACCESS_KEY_ID", "c"), ("AWS_SECRET_ACCESS_KEY", "d")]);
        let clients = Clients::new(&settings, &other_keys).await.unwrap();
        assert_eq!(clients.region, "eu-west-3");
        let config = sdk_config(&settings, &other_keys).await.unwrap();
        let keys = config.credentials_provider().unwrap().provide_credentials().await.unwrap();
        assert_eq!(keys.access_key_id(), "a");
        let other = Settings { profile: Some("other".to_owned()), region: Some("eu-west-3".to_owned()), ..settings };
        let said = refused(&other, &[]).await;
        assert!(said.contains("for profile other"), "{said}");
    }

    #[tokio::test]
    async fn the_environment_is_the_one_that_was_handed_on() {
        let environment = Environment::from_iter([
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_REGION", "ap-south-1"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ]);
        let clients = Clients::new(&Settings { region: None, ..settings() }, &environment).await.unwrap();
        assert_eq!((clients.region.as_str(), clients.endpoint.as_str()), ("ap-south-1", "http://127.0.0.1:1"));
    }
}
