use jiff::civil::{DateTime, date};
use proptest::prelude::*;

use super::*;

/// 2026-11-21 is a Saturday.
fn at(day: i8, hour: i8, minute: i8, second: i8) -> DateTime {
    date(2026, 11, day).at(hour, minute, second, 0)
}

const SAT: i8 = 21;
const SUN: i8 = 22;
const MON: i8 = 23;
const FRI: i8 = 27;

fn policy(text: &str) -> Period {
    Period::parse_policy(text).unwrap().period
}

fn machine(text: &str) -> Period {
    Period::parse_machine(text).unwrap().period
}

#[test]
fn a_policy_is_active_in_every_whole_minute_that_matches() {
    for (text, moment, inside) in [
        ("* * * * *", at(SAT, 3, 4, 5), true),
        ("* 8-17 * * mon-fri", at(MON, 10, 0, 0), true),
        ("* 8-17 * * mon-fri", at(MON, 20, 0, 0), false),
        ("* 8-17 * * mon-fri", at(SAT, 10, 0, 0), false),
        ("* 8-15 * * mon-fri", at(MON, 7, 59, 59), false),
        ("* 8-15 * * mon-fri", at(MON, 8, 0, 0), true),
        ("* 8-15 * * mon-fri", at(MON, 15, 59, 59), true),
        ("* 8-15 * * mon-fri", at(MON, 16, 0, 0), false),
        ("*/15 * * * *", at(MON, 1, 30, 59), true),
        ("*/15 * * * *", at(MON, 1, 31, 0), false),
        ("0-30/10,45 * * * *", at(MON, 1, 45, 0), true),
        ("0-30/10,45 * * * *", at(MON, 1, 25, 0), false),
        ("50/5 * * * *", at(MON, 1, 55, 0), true),
        ("* * * nov *", at(MON, 1, 0, 0), true),
        ("* * * January *", at(MON, 1, 0, 0), false),
        ("* * * * SUN", at(SUN, 1, 0, 0), true),
        ("* * * * 0", at(SUN, 1, 0, 0), true),
        ("* * * * 7", at(SUN, 1, 0, 0), true),
        ("* * * * sunday", at(SUN, 1, 0, 0), true),
        ("* * * * 6,", at(SAT, 1, 0, 0), true),
    ] {
        assert_eq!(policy(text).contains(moment), inside, "{text} at {moment}");
    }
}

#[test]
fn ranges_wrap_and_seven_is_sunday() {
    for (text, days) in [
        ("* * * * fri-mon", [FRI, SAT, SUN, MON].as_slice()),
        ("* * * * 5-1", &[FRI, SAT, SUN, MON]),
        ("* * * * MON-SUN", &[MON, 24, 25, 26, FRI, SAT, SUN]),
        ("* * * * 1-7", &[MON, 24, 25, 26, FRI, SAT, SUN]),
        ("* * * * 0-7", &[MON, 24, 25, 26, FRI, SAT, SUN]),
        ("* * * * 5-7", &[FRI, SAT, SUN]),
        ("* * * * 1-7/2", &[MON, 25, FRI, SUN]),
    ] {
        for day in SAT..=FRI {
            assert_eq!(policy(text).contains(at(day, 12, 0, 0)), days.contains(&day), "{text} on {day}");
        }
    }
    let night = machine("* * 18-6 * * * *");
    assert!(night.contains(at(MON, 18, 0, 0)) && night.contains(at(MON, 6, 59, 59)));
    assert!(!night.contains(at(MON, 7, 0, 0)) && !night.contains(at(MON, 17, 59, 59)));
}

#[test]
fn day_of_month_or_day_of_week_suffices_where_both_are_restricted() {
    let both = policy("* * 13 * fri");
    assert!(both.contains(at(13, 0, 0, 0)), "a Friday the 13th");
    assert!(both.contains(at(FRI, 0, 0, 0)));
    assert!(!both.contains(at(SAT, 0, 0, 0)));
    assert!(!policy("* * 13 * *").contains(at(FRI, 0, 0, 0)));
}

#[test]
fn seven_fields_are_exact_to_the_second() {
    let seed = machine("* * 9-17 * * mon-fri *");
    assert!(!seed.contains(at(MON, 8, 59, 59)));
    assert!(seed.contains(at(MON, 9, 0, 0)));
    assert!(seed.contains(at(MON, 17, 59, 59)));
    assert!(!seed.contains(at(MON, 18, 0, 0)));
    let off_peak = machine("* * 0-9,18-23 * * mon-fri *");
    assert!(off_peak.contains(at(MON, 9, 59, 59)) && !off_peak.contains(at(MON, 10, 0, 0)));
    assert!(machine("* * * * * sat,sun *").contains(at(SUN, 12, 0, 0)));
    let second = machine("30 0 12 * * * 2026");
    assert!(second.contains(at(MON, 12, 0, 30)) && !second.contains(at(MON, 12, 0, 31)));
    assert!(!machine("* * * * * * 2027-2030").contains(at(MON, 12, 0, 0)));
}

#[test]
fn five_and_six_fields_of_the_old_kind_are_whole_minutes_with_a_remark() {
    let five = Period::parse_machine("* 9-17 * * mon-fri").unwrap();
    assert_eq!(five.remarks, [Remark::Minutes]);
    assert!(five.period.contains(at(MON, 9, 30, 17)));
    let six = Period::parse_machine("* 9-17 * * mon-fri 2026").unwrap();
    assert_eq!(six.remarks, [Remark::Minutes]);
    assert!(six.period.contains(at(MON, 9, 30, 17)));
}

#[test]
fn last_nearest_and_nth_days_are_understood_in_seven_fields() {
    for (text, day, inside) in [
        ("* * * L * * *", 30, true),
        ("* * * L * * *", 29, false),
        ("* * * LW * * *", 30, true),
        // The 21st is a Saturday, so its nearest workday is Friday the 20th.
        ("* * * 21W * * *", 20, true),
        ("* * * 21W * * *", 21, false),
        // The 1st is a Sunday: Monday the 2nd.
        ("* * * 1W * * *", 2, true),
        ("* * * * * 5L *", 27, true),
        ("* * * * * 5L *", 20, false),
        ("* * * * * fri#2 *", 13, true),
        ("* * * * * 5#2 *", 20, false),
    ] {
        assert_eq!(machine(text).contains(at(day, 12, 0, 0)), inside, "{text} on {day}");
    }
}

#[test]
fn remarks_name_what_will_not_do_what_was_meant() {
    assert_eq!(Period::parse_machine("* * * 31 2 * *").unwrap().remarks, [Remark::Never]);
    assert_eq!(Period::parse_policy("* * 30-31 feb *").unwrap().remarks, [Remark::Never]);
    assert_eq!(Period::parse_policy("* * 29 2 *").unwrap().remarks, []);
    assert_eq!(Period::parse_machine("* * * * * * * x").unwrap().remarks, [Remark::Surplus]);
    assert_eq!(Period::parse_machine("@daily").unwrap().remarks, [Remark::OneSecond]);
}

#[test]
fn what_is_no_period_says_why() {
    for (text, message) in [
        ("invalid", "it has 1 fields: a period here is minute, hour, day of month, month, day of week"),
        ("1 * * * * *", "it has 6 fields: a period here is minute, hour, day of month, month, day of week"),
        ("60 * * * *", "\"60\" is no minute: 0 to 59"),
        ("* 24 * * *", "\"24\" is no hour: 0 to 23"),
        ("* * 0 * *", "\"0\" is no day of the month: 1 to 31"),
        ("* * * 13 *", "\"13\" is no month: 1 to 12"),
        ("* * * * 8", "\"8\" is no day of the week: 0 to 7"),
        ("* * * * mo", "\"mo\" is no day of the week: 0 to 7"),
        ("* 8- * * *", "\"8-\" is no hour: 0 to 23"),
        ("*/0 * * * *", "\"*/0\" has a step that is not a positive number"),
        ("*/x * * * *", "\"*/x\" has a step that is not a positive number"),
        ("* * L * *", "\"L\" is understood only in periods of seven fields"),
        ("* * * * 5#2", "\"5#2\" is understood only in periods of seven fields"),
        ("* , * * *", "\"\" is no hour: 0 to 23"),
    ] {
        assert_eq!(Period::parse_policy(text).unwrap_err().to_string(), message, "{text}");
    }
    for (text, message) in [
        ("* * *", "it has 3 fields: a period here is [second] minute hour day-of-month month day-of-week [year]"),
        ("@often", "\"@often\" is no known alias"),
        ("* * * * * * 1969", "\"1969\" is no year: 1970 to 2099"),
        ("* * * * * 5#6 *", "\"5#6\" is no day of the week: 0 to 7"),
        ("* * * 32W * * *", "\"32W\" is no day of the month: 1 to 31"),
    ] {
        assert_eq!(Period::parse_machine(text).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn always_contains_every_moment() {
    assert_eq!(policy("* * * * *"), Period::always());
}

proptest! {
    #[test]
    fn no_text_makes_parsing_or_matching_panic(text in "[-*0-9/,#LWa-f? ]{0,24}", day in 1_i8..=30, hour in 0_i8..24) {
        for parsed in [Period::parse_policy(&text), Period::parse_machine(&text)].into_iter().flatten() {
            parsed.period.contains(at(day, hour, 0, 0));
        }
    }
}
