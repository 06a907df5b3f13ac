//! `flotilla simulate`: what a runner's autoscaler would do with a load, and what that would cost.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};

use super::{Surroundings, loading};
use crate::cli::{ReportFormat, ShapeArg, SimulateArgs, SpreadArg};
use crate::config::diagnostics::Style;
use crate::config::resolved::{Autoscaler, Config, Runner};
use crate::fleeting::registry;
use crate::go_duration::GoDuration;
use crate::taskscaler::settings::core_settings;
use crate::taskscaler::simulate::workload::{self, Load, Shape, Spread};
use crate::taskscaler::simulate::{self, Job, PollingRules, Provider, Setup};
use crate::time::{self, Now};

/// A runner with its autoscaler.
pub(super) type Autoscaled<'a> = (&'a Runner, &'a Autoscaler);

/// Simulates and reports on standard output.
///
/// # Errors
/// The config file or the jobs cannot be used, or it is not clear which runner is meant.
pub fn run(args: &SimulateArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    io::stdout().lock().write_all(report(args, surroundings)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn report(args: &SimulateArgs, surroundings: &Surroundings) -> anyhow::Result<String> {
    let location = loading::locate(&args.config, surroundings);
    let config = resolved(loading::load(location, surroundings)?)?;
    let (runner, autoscaler) = one(&config, args.runner.as_deref())?;
    let start = Now { utc: SystemTime::from(args.start), ..time::now() };
    let jobs = jobs(args, start)?;
    let setup = setup(args, &config, (runner, autoscaler), start)?;
    let outcome = simulate::run(setup, &jobs);
    Ok(match args.format {
        ReportFormat::Json => format!("{:#}\n", outcome.to_json()),
        ReportFormat::Text => format!("runner {:?}, seed {}\n\n{outcome}", runner.name, args.seed),
    })
}

/// The whole configuration, where it has no errors.
pub(super) fn resolved(found: loading::Found) -> anyhow::Result<Config> {
    if found.is_missing {
        bail!("there is no config file {}", found.location.path.display());
    }
    let loaded = found.loaded;
    let problems = || loaded.diagnostics.to_text(&loaded.source, Style::Plain);
    loaded.resolved.clone().with_context(|| format!("{}\nthe configuration has errors", problems()))
}

/// The autoscaled runners, or those of this name.
pub(super) fn autoscaled<'a>(config: &'a Config, name: Option<&str>) -> anyhow::Result<Vec<Autoscaled<'a>>> {
    let meant = |runner: &&Runner| name.is_none_or(|name| runner.name == name);
    let found: Vec<_> = config.runners.iter().filter(meant).filter_map(|it| Some((it, it.autoscaler()?))).collect();
    match name {
        _ if !found.is_empty() => Ok(found),
        Some(name) => bail!("no runner {name:?} with [runners.autoscaler] in the config file"),
        None => bail!("no runner with [runners.autoscaler] in the config file"),
    }
}

fn one<'a>(config: &'a Config, name: Option<&str>) -> anyhow::Result<Autoscaled<'a>> {
    let found = autoscaled(config, name)?;
    match found.as_slice() {
        [one] => Ok(*one),
        several => {
            let names: Vec<String> = several.iter().map(|(runner, _)| format!("{:?}", runner.name)).collect();
            bail!("say which one with --runner: {}", names.join(", "))
        }
    }
}

fn jobs(args: &SimulateArgs, start: Now) -> anyhow::Result<Vec<Job>> {
    let Some(per_hour) = args.generate else {
        let path = args.jobs.as_deref().context("neither --jobs nor --generate is given")?;
        return workload::parse(&read(path)?).with_context(|| format!("the jobs of {}", path.display()));
    };
    ensure!(per_hour > 0.0 && per_hour.is_finite(), "--generate {per_hour} is no number of jobs an hour");
    let load = Load {
        per_hour,
        length: span("--length", args.length)?,
        duration: span("--duration", args.duration)?,
        spread: match args.spread {
            SpreadArg::Fixed => Spread::Fixed,
            SpreadArg::Exponential => Spread::Exponential,
            SpreadArg::Lognormal => Spread::LogNormal,
        },
        shape: match args.shape {
            ShapeArg::Flat => Shape::Flat,
            ShapeArg::Office => Shape::Office,
        },
    };
    let jobs = workload::generate(&load, start.utc, args.seed);
    ensure!(!jobs.is_empty(), "no job arrives in this time at this rate");
    Ok(jobs)
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path != Path::new("-") {
        return std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("reading standard input")?;
    Ok(text)
}

fn setup(
    args: &SimulateArgs,
    config: &Config,
    (runner, autoscaler): Autoscaled<'_>,
    start: Now,
) -> anyhow::Result<Setup> {
    ensure!((0.0..1.0).contains(&args.refused), "--refused {} is not from 0 to less than 1", args.refused);
    let long_poll = span("--long-poll", args.long_poll)?;
    Ok(Setup {
        fleet: core_settings(autoscaler),
        polling: PollingRules {
            concurrent: config.concurrent,
            limit: runner.limit,
            check_interval: config.check_interval,
            request_concurrency: runner.request_concurrency,
            strict_check_interval: runner.strict_check_interval,
        },
        long_poll: (!long_poll.is_zero()).then_some(long_poll),
        provider: Provider {
            boot: span("--boot", args.boot)?,
            ready: span("--ready", args.ready)?,
            refused: args.refused,
            max_size: registry::facts(&autoscaler.plugin_config).max_size,
            ..Provider::default()
        },
        start,
        seed: args.seed,
    })
}

fn span(option: &str, value: GoDuration) -> anyhow::Result<Duration> {
    value.to_std().with_context(|| format!("{option} {value} is negative"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::environment::Environment;
    use crate::config::file::User;

    const CONFIG: &str = r#"
concurrent = 10
check_interval = 1
[[runners]]
  name = "builds"
  url = "https://gitlab.example"
  token = "glrt-builds"
  executor = "instance"
  request_concurrency = 5
  [runners.autoscaler]
    plugin = "local"
    max_instances = 4
    [[runners.autoscaler.policy]]
      idle_count = 2
      idle_time = "10m"
"#;

    fn result_of(config: &str, jobs: &str, args: &[&str], check: impl FnOnce(anyhow::Result<String>)) {
        let folder = tempfile::tempdir().unwrap();
        let (config_path, jobs_path) = (folder.path().join("config.toml"), folder.path().join("jobs.csv"));
        std::fs::write(&config_path, config).unwrap();
        std::fs::write(&jobs_path, jobs).unwrap();
        let (config_path, jobs_path) = (config_path.to_str().unwrap(), jobs_path.to_str().unwrap());
        let mut words = vec!["flotilla", "simulate", "--config", config_path];
        if !args.contains(&"--generate") {
            words.extend(["--jobs", jobs_path]);
        }
        words.extend(args);
        let Command::Simulate(args) = Cli::try_parse_from(words).unwrap().command else { panic!("another command") };
        let surroundings = Surroundings {
            environment: Environment::default(),
            user: User::Other,
            executable: "/nonexistent/flotilla".into(),
            host_name: "this-host".to_owned(),
            folder: folder.path().to_owned(),
        };
        check(report(&args, &surroundings));
    }

    fn report_of(config: &str, jobs: &str, args: &[&str]) -> String {
        let mut text = String::new();
        result_of(config, jobs, args, |result| text = result.unwrap());
        text
    }

    fn error_of(config: &str, jobs: &str, args: &[&str]) -> String {
        let mut text = String::new();
        result_of(config, jobs, args, |result| text = format!("{:#}", result.unwrap_err()));
        text
    }

    #[test]
    fn a_file_of_jobs_becomes_waits_costs_and_a_table() {
        let text = report_of(CONFIG, "arrival,duration\n600,60\n600,60\n4000,60\n", &[]);
        for part in [
            "runner \"builds\"",
            "jobs        3 in 1.13 h: 3 final",
            "created     5\ndeleted     3 (idle 3)",
            "2026-01-05 00:00          2            2              4",
            "2026-01-05 01:00          1            1              3",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_json_and_another_seed_another() {
        let args =
            |seed| ["--generate", "30", "--length", "24h", "--shape", "office", "--format", "json", "--seed", seed];
        let of = |seed| report_of(CONFIG, "", &args(seed));
        assert_eq!(of("1"), of("1"));
        assert_ne!(of("1"), of("2"));
        let json: serde_json::Value = serde_json::from_str(&of("1")).unwrap();
        assert_eq!(json["jobs"]["arrived"], json["jobs"]["finished"]);
        assert!(json["hours"].as_array().unwrap().len() >= 24);
    }

    #[test]
    fn what_cannot_be_simulated_says_why() {
        assert!(error_of(CONFIG, "0,x\n", &[]).contains("line 1: \"x\" is no number of seconds"));
        assert!(error_of(CONFIG, "0,1\n", &["--runner", "other"]).contains("no runner \"other\""));
        let two =
            format!("{CONFIG}{}", CONFIG.replace("concurrent = 10\ncheck_interval = 1", "").replace("builds", "more"));
        assert!(error_of(&two, "0,1\n", &[]).contains("say which one with --runner: \"builds\", \"more\""));
        assert!(error_of(CONFIG, "", &["--generate", "0"]).contains("no number of jobs an hour"));
    }
}
