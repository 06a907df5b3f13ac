//! Periods in cron syntax, read as ranges of time: a period contains every moment whose fields match.
//!
//! Two syntaxes: policies have five fields and count whole minutes; the older `Periods` have up to seven, with
//! seconds first and years last. Their calendar rules are the same: 0 and 7 are Sunday, a range may wrap around
//! (`fri-mon`, `18-6`), and where both the day of the month and the day of the week are restricted, either
//! suffices. The reference shifts the older kind by a second and has ranges that never match; ours does neither.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::civil::{Date, DateTime, Weekday};

pub use parse::{Parsed, PeriodError, Remark};

/// A set of moments of a calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    text: String,
    seconds: Set,
    minutes: Set,
    hours: Set,
    month_days: MonthDays,
    months: Set,
    week_days: WeekDays,
    /// `None` is every year.
    years: Option<Vec<i16>>,
}

impl Period {
    /// The period of a policy without any: always.
    pub fn always() -> Self {
        Self {
            text: "* * * * *".to_owned(),
            seconds: Set::ALL,
            minutes: Set::ALL,
            hours: Set::ALL,
            month_days: MonthDays { restricted: false, days: Set::ALL, specials: Vec::new() },
            months: Set::ALL,
            week_days: WeekDays { restricted: false, days: Set::ALL, specials: Vec::new() },
            years: None,
        }
    }

    /// As in the file.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this moment of the local calendar is in the period.
    pub fn contains(&self, local: DateTime) -> bool {
        self.seconds.has(local.second())
            && self.minutes.has(local.minute())
            && self.hours.has(local.hour())
            && self.contains_day(local.date())
    }

    fn contains_day(&self, date: Date) -> bool {
        self.months.has(date.month())
            && self.years.as_ref().is_none_or(|years| years.contains(&date.year()))
            && match (self.month_days.restricted, self.week_days.restricted) {
                (true, true) => self.month_days.has(date) || self.week_days.has(date),
                (true, false) => self.month_days.has(date),
                (false, true) => self.week_days.has(date),
                (false, false) => true,
            }
    }

    /// Whether no day of any year is in the period, such as the 31st of February.
    fn is_never(&self) -> bool {
        let possible = |month: i8| {
            // A leap year, so that the 29th of February counts.
            let days = Date::constant(2024, month, 1).days_in_month();
            self.months.has(month) && (1..=days).any(|day| self.month_days.days.has(day))
        };
        let free = !self.month_days.restricted || self.week_days.restricted || !self.month_days.specials.is_empty();
        !free && !(1..=12).any(possible)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A set of small numbers; every field but the year fits into 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set(u64);

impl Set {
    const ALL: Self = Self(u64::MAX);
    const NONE: Self = Self(0);

    fn insert(&mut self, number: u32) {
        self.0 |= 1_u64.checked_shl(number).unwrap_or(0);
    }

    fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.0.checked_shr(number).unwrap_or(0) & 1 == 1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct MonthDays {
    restricted: bool,
    days: Set,
    specials: Vec<SpecialMonthDay>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpecialMonthDay {
    /// `L`
    Last,
    /// `LW`
    LastWorkday,
    /// `15W`: the workday nearest to the day, in the same month.
    NearestWorkday(i8),
}

impl MonthDays {
    fn has(&self, date: Date) -> bool {
        self.days.has(date.day()) || self.specials.iter().any(|special| special.day_in(date) == Some(date.day()))
    }
}

impl SpecialMonthDay {
    /// The day that is meant in the month of this date.
    fn day_in(self, date: Date) -> Option<i8> {
        let last = date.last_of_month();
        match self {
            Self::Last => Some(last.day()),
            Self::LastWorkday => nearest_workday(last),
            Self::NearestWorkday(day) => {
                let day = Date::new(date.year(), date.month(), day).ok()?;
                nearest_workday(day)
            }
        }
    }
}

/// Saturday goes back to Friday and Sunday on to Monday, unless that leaves the month.
fn nearest_workday(date: Date) -> Option<i8> {
    let (day, last) = (date.day(), date.days_in_month());
    Some(match date.weekday() {
        Weekday::Saturday if day == 1 => 3,
        Weekday::Saturday => day - 1,
        Weekday::Sunday if day == last => day - 2,
        Weekday::Sunday => day + 1,
        Weekday::Monday | Weekday::Tuesday | Weekday::Wednesday | Weekday::Thursday | Weekday::Friday => day,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct WeekDays {
    restricted: bool,
    days: Set,
    specials: Vec<SpecialWeekDay>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpecialWeekDay {
    /// `5L`: the last Friday of the month.
    Last(i8),
    /// `5#2`: the second Friday of the month.
    Nth(i8, i8),
}

impl WeekDays {
    fn has(&self, date: Date) -> bool {
        let weekday = date.weekday().to_sunday_zero_offset();
        self.days.has(weekday)
            || self.specials.iter().any(|special| match *special {
                SpecialWeekDay::Last(day) => day == weekday && date.day() + 7 > date.days_in_month(),
                SpecialWeekDay::Nth(day, nth) => day == weekday && (date.day() - 1) / 7 + 1 == nth,
            })
    }
}
