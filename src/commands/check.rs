//! `flotilla check`: everything that is wrong with a config file, offline. 0 where `run` could start with it.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use super::Surroundings;
use super::loading::{self, Found};
use crate::cli::{CheckArgs, CheckFormat};
use crate::config::diagnostics::Style;
use crate::config::environment::Environment;
use crate::config::resolved::{Autoscaler, ExecutorKind, ReservationMode, Runner};
use crate::executors::docker::auth::Keyring;

/// Checks the file and reports on standard output.
///
/// # Errors
/// There is no file, or it cannot be read.
pub fn run(args: &CheckArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    let location = loading::locate(&args.config, surroundings);
    let found = loading::load(location, surroundings)?;
    if found.is_missing {
        bail!("there is no config file {}", found.location.path.display());
    }
    let mut out = io::stdout().lock();
    match args.format {
        CheckFormat::Json => writeln!(out, "{:#}", report(&found, &surroundings.environment))?,
        CheckFormat::Text => {
            let style = if io::stdout().is_terminal() { Style::Coloured } else { Style::Plain };
            write!(out, "{}", text(&found, &surroundings.environment, style))?;
        }
    }
    Ok(if found.loaded.resolved.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(found: &Found, environment: &Environment, style: Style) -> String {
    let loaded = &found.loaded;
    let mut lines: Vec<String> = loaded.unserved.iter().map(loading::unserved_line).collect();
    if let Some(config) = &loaded.resolved {
        for refused in config.refused() {
            let reasons: Vec<String> = refused.refusals.iter().map(ToString::to_string).collect();
            lines.push(format!("`run` will not serve runner {:?}: {}", refused.name, reasons.join("; ")));
        }
        let autoscaled = |runner: &Runner| Some((runner.name.clone(), modes(runner.autoscaler()?)));
        for (name, modes) in config.runners.iter().filter_map(autoscaled) {
            lines.push(format!("runner {name:?} reserves capacity in {modes}"));
        }
        for runner in &config.runners {
            let Some(helpers) = credential_helpers(runner, environment) else { continue };
            let helpers = if helpers.is_empty() { "none".to_owned() } else { helpers.join(", ") };
            lines.push(format!(
                "runner {:?} runs for jobs of the credential helpers that they name: {helpers}",
                runner.name
            ));
        }
    }
    let notes: String = lines.iter().map(|line| format!("note: {line}\n")).collect();
    let problems = loaded.diagnostics.to_text(&loaded.source, style);
    let (errors, warnings) = (loaded.diagnostics.errors(), loaded.diagnostics.warnings());
    format!("{problems}{notes}{}: {errors} errors, {warnings} warnings\n", found.location.path.display())
}

/// "adaptive mode", or each mode with the policy that brings it.
fn modes(autoscaler: &Autoscaler) -> String {
    let modes = autoscaler.reservation_modes();
    if let [(_, first), rest @ ..] = modes.as_slice()
        && rest.iter().all(|(_, mode)| mode == first)
    {
        return format!("{} mode", first.as_str());
    }
    let said = |(policy, mode): &(Option<usize>, ReservationMode)| match policy {
        Some(place) => format!("{} mode while policy[{place}] is the last that is active", mode.as_str()),
        None => format!("{} mode while none is", mode.as_str()),
    };
    modes.iter().map(said).collect::<Vec<_>>().join(", ")
}

fn report(found: &Found, environment: &Environment) -> serde_json::Value {
    let loaded = &found.loaded;
    let runners = loaded.resolved.iter().flat_map(|config| &config.runners);
    json!({
        "file": found.location.path.to_string_lossy(),
        "errors": loaded.diagnostics.errors(),
        "warnings": loaded.diagnostics.warnings(),
        "problems": loaded.diagnostics.to_json(&loaded.source),
        "without_effect":
            loaded.unserved.iter().map(|key| json!({ "key": key.key, "what": key.what })).collect::<Vec<_>>(),
        "runners": runners.map(|runner| about(runner, environment)).collect::<Vec<_>>(),
    })
}

/// The helpers that a job's `DOCKER_AUTH_CONFIG` may name, where jobs have images. The manager's own Docker configuration
/// is looked for where this process would: another user has another one.
fn credential_helpers(runner: &Runner, environment: &Environment) -> Option<Vec<String>> {
    let allowed = || Keyring::of(runner, environment).allowed_helpers();
    has_images(runner.executor).then(|| allowed().iter().map(ToString::to_string).collect())
}

fn has_images(executor: ExecutorKind) -> bool {
    match executor {
        ExecutorKind::DockerAutoscaler
        | ExecutorKind::Docker
        | ExecutorKind::DockerMachine
        | ExecutorKind::DockerWindows => true,
        ExecutorKind::Instance
        | ExecutorKind::Shell
        | ExecutorKind::Ssh
        | ExecutorKind::Parallels
        | ExecutorKind::VirtualBox
        | ExecutorKind::Kubernetes
        | ExecutorKind::Custom
        | ExecutorKind::Unknown => false,
    }
}

fn about(runner: &Runner, environment: &Environment) -> serde_json::Value {
    let modes = runner.autoscaler().into_iter().flat_map(Autoscaler::reservation_modes);
    json!({
        "name": runner.name,
        "executor": runner.executor.as_str(),
        "is_served": runner.refusals.is_empty(),
        "refusals": runner.refusals.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "reservation_modes":
            modes.map(|(policy, mode)| json!({ "policy": policy, "mode": mode.as_str() })).collect::<Vec<_>>(),
        "allowed_credential_helpers": credential_helpers(runner, environment),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::file::{Location, Origin};

    fn found(text: &str) -> Found {
        let location = Location { path: "config.toml".into(), origin: Origin::Argument };
        let loaded = crate::config::load(Path::new("config.toml"), text, &Environment::default());
        Found { location, is_missing: false, loaded }
    }

    const FILE: &str = r#"
concurrent = 9
user = "ci"
[[runners]]
  name = "r"
  url = "https://gitlab.example"
  token = "glrt-x"
  executor = "instance"
  shell = "pwsh"
  [runners.autoscaler]
    plugin = "local"
    max_instances = 4
    [[runners.autoscaler.policy]]
      idle_count = 1
      periods = ["* 8-17 * * *"]
      preemptive_mode = true
"#;

    #[test]
    fn both_forms_say_what_has_no_effect_who_is_refused_and_how_capacity_is_reserved() {
        let found = found(FILE);
        let text = text(&found, &Environment::default(), Style::Plain);
        let refusal = "runners[r].shell: the shell pwsh is not served yet";
        for line in [
            "note: user has no effect yet: the account of the shell executor\n",
            &format!("note: `run` will not serve runner \"r\": {refusal}\n"),
            "note: runner \"r\" reserves capacity in preemptive mode while policy[0] is the last that is active, \
             adaptive mode while none is\n",
            "config.toml: 0 errors, 1 warnings\n",
        ] {
            assert!(text.contains(line), "{line} in:\n{text}");
        }
        let json = report(&found, &Environment::default());
        assert_eq!(json["without_effect"][0]["key"], "user");
        assert_eq!(json["problems"].as_array().map(Vec::len), Some(1));
        let runner = &json["runners"][0];
        assert_eq!((&runner["is_served"], &runner["refusals"][0]), (&json!(false), &json!(refusal)));
        let modes = json!([{ "policy": 0, "mode": "preemptive" }, { "policy": null, "mode": "adaptive" }]);
        assert_eq!(runner["reservation_modes"], modes);
    }

    #[test]
    fn both_forms_say_which_credential_helpers_jobs_may_name() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".docker")).unwrap();
        std::fs::write(home.path().join(".docker/config.json"), r#"{"credsStore":"pass"}"#).unwrap();
        let environment = Environment::from_iter([("HOME", home.path().to_str().unwrap())]);
        for (line, helpers) in [
            ("", &["corp", "ecr-login", "gcloud", "gcr", "pass"][..]),
            ("allowed_credential_helpers = [\"acr-env\"]", &["acr-env"]),
            ("allowed_credential_helpers = []", &[]),
        ] {
            let found = found(&format!(
                r#"
[[runners]]
  name = "r"
  url = "https://gitlab.example"
  token = "glrt-x"
  executor = "docker-autoscaler"
  environment = ['DOCKER_AUTH_CONFIG={{"credHelpers":{{"r.example":"corp"}}}}']
  [runners.docker]
    image = "alpine"
    {line}
  [runners.autoscaler]
    plugin = "local"
    max_instances = 4
"#
            ));
            let shown = if helpers.is_empty() { "none".to_owned() } else { helpers.join(", ") };
            let text = text(&found, &environment, Style::Plain);
            assert!(text.contains(&format!("credential helpers that they name: {shown}\n")), "{text}");
            assert_eq!(report(&found, &environment)["runners"][0]["allowed_credential_helpers"], json!(helpers));
        }
    }
}
