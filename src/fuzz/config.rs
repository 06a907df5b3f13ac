//! config.toml and the values in it.

use std::path::Path;

use super::run;
use crate::config::diagnostics::Style;
use crate::config::edit::Document;
use crate::config::environment::Environment;
use crate::config::types::host_key::HostKeyText;
use crate::config::types::period::Period;
use crate::config::types::server_url::ServerUrl;
use crate::config::types::size::ByteSize;
use crate::config::types::volume::Volume;
use crate::config::{self, reload};
use crate::go_duration::GoDuration;

const EVERY_KEY: &[u8] = include_bytes!("../../tests/data/every-key.toml");
const SMALL: &[u8] = b"concurrent = 2\n[[runners]]\nname = \"r\"\nurl = \"https://me:pw@host/\"\ntoken = \"glrt-x\"\n\
    executor = \"docker-autoscaler\"\nenvironment = [\"A=b\"]\n[runners.docker]\nimage = \"a\"\n[runners.autoscaler]\n\
    plugin = \"static\"\n[[runners.autoscaler.policy]]\nperiods = [\"* 8-17 * * mon-fri\"]\n";

#[test]
fn no_file_makes_loading_printing_or_comparing_panic() {
    let load = |text: &str| config::load(Path::new("config.toml"), text, &Environment::default());
    let small = load(std::str::from_utf8(SMALL).unwrap());
    run("config", &[SMALL, EVERY_KEY], |input| {
        let text = String::from_utf8_lossy(input);
        let loaded = load(&text);
        loaded.diagnostics.to_text(&loaded.source, Style::Plain);
        loaded.diagnostics.to_json(&loaded.source);
        reload::diff(&small, &loaded);
        if let Ok(document) = Document::parse(&text) {
            document.entries();
        }
    });
}

#[test]
fn no_text_makes_a_period_panic() {
    let seeds =
        [&b"* * * * *"[..], b"*/5 8-17 1,15 jan-dec mon-fri", b"0 0 0 1 1 * 2026-2030", b"@daily", b"18-6 * L 0 7"];
    let noon = jiff::civil::date(2028, 2, 29).at(12, 0, 0, 0);
    run("periods", &seeds, |input| {
        let text = String::from_utf8_lossy(input);
        for parsed in [Period::parse_policy(&text), Period::parse_machine(&text)].into_iter().flatten() {
            parsed.period.contains(noon);
        }
    });
}

#[test]
fn no_text_makes_a_value_panic() {
    let seeds = [
        &b"1h30m0.5s"[..],
        b"500ms",
        b"2g",
        b"1024",
        b"/host:/container:ro,z",
        b"https://host:8443/ci/",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
    ];
    run("values", &seeds, |input| {
        let text = String::from_utf8_lossy(input);
        text.parse::<GoDuration>().ok();
        text.parse::<ByteSize>().ok();
        text.parse::<Volume>().ok();
        text.parse::<ServerUrl>().ok();
        if let Ok(key) = text.parse::<HostKeyText>() {
            assert_eq!(key.as_str().parse(), Ok(key.clone()));
        }
    });
}
