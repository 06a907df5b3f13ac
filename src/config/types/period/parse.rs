//! Reading the two cron syntaxes.

use super::{MonthDays, Period, Set, SpecialMonthDay, SpecialWeekDay, WeekDays};

/// A period, and what should be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub period: Period,
    pub remarks: Vec<Remark>,
}

/// Something about a period that an operator should know; it does not keep it from working.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Remark {
    #[error("the reference never matched a pattern of 5 or 6 fields here; it is read as whole minutes")]
    Minutes,
    #[error("fields after the seventh are ignored")]
    Surplus,
    #[error("it matches no day of any year")]
    Never,
    #[error("it is in force for one second at a time")]
    OneSecond,
}

/// Why a text is no period.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    #[error("it has {found} fields: a period here is minute, hour, day of month, month, day of week")]
    FiveFields { found: usize },
    #[error("it has {found} fields: a period here is [second] minute hour day-of-month month day-of-week [year]")]
    SevenFields { found: usize },
    #[error("{item:?} is no {field}: {min} to {max}")]
    Item { field: &'static str, item: String, min: u32, max: u32 },
    #[error("{item:?} has a step that is not a positive number")]
    Step { item: String },
    #[error("{item:?} is understood only in periods of seven fields")]
    OnlySeven { item: String },
    #[error("{alias:?} is no known alias")]
    Alias { alias: String },
}

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    words: &'static [&'static str],
}

const SECOND: Field = Field { name: "second", min: 0, max: 59, words: &[] };
const MINUTE: Field = Field { name: "minute", min: 0, max: 59, words: &[] };
const HOUR: Field = Field { name: "hour", min: 0, max: 23, words: &[] };
const MONTH_DAY: Field = Field { name: "day of the month", min: 1, max: 31, words: &[] };
const MONTH: Field = Field {
    name: "month",
    min: 1,
    max: 12,
    words: &[
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ],
};
const WEEK_DAY: Field = Field {
    name: "day of the week",
    min: 0,
    max: 7,
    words: &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"],
};
const YEAR: Field = Field { name: "year", min: 1970, max: 2099, words: &[] };

const ALIASES: [(&str, &str); 7] = [
    ("@yearly", "0 0 0 1 1 * *"),
    ("@annually", "0 0 0 1 1 * *"),
    ("@monthly", "0 0 0 1 * * *"),
    ("@weekly", "0 0 0 * * 0 *"),
    ("@daily", "0 0 0 * * * *"),
    ("@midnight", "0 0 0 * * * *"),
    ("@hourly", "0 0 * * * * *"),
];

impl Period {
    /// Five fields, as `[[runners.autoscaler.policy]]` has them.
    pub fn parse_policy(text: &str) -> Result<Parsed, PeriodError> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let &[minute, hour, month_day, month, week_day] = fields.as_slice() else {
            return Err(PeriodError::FiveFields { found: fields.len() });
        };
        if let Some(item) =
            [month_day, week_day].into_iter().flat_map(|field| field.split(',')).find(|item| is_special(item))
        {
            return Err(PeriodError::OnlySeven { item: item.to_owned() });
        }
        let period = build(text, ["*", minute, hour, month_day, month, week_day, "*"])?;
        let remarks = period.is_never().then_some(Remark::Never).into_iter().collect();
        Ok(Parsed { period, remarks })
    }

    /// Five to seven fields or an alias, as `Periods`, `OffPeakPeriods` and monitoring have them.
    pub fn parse_machine(text: &str) -> Result<Parsed, PeriodError> {
        let mut remarks = Vec::new();
        let mut source = text.trim();
        if source.starts_with('@') {
            let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(source));
            source = alias.ok_or_else(|| PeriodError::Alias { alias: source.to_owned() })?.1;
            remarks.push(Remark::OneSecond);
        }
        let fields: Vec<&str> = source.split_whitespace().collect();
        let fields = match *fields.as_slice() {
            [minute, hour, month_day, month, week_day] => {
                remarks.push(Remark::Minutes);
                ["*", minute, hour, month_day, month, week_day, "*"]
            }
            [minute, hour, month_day, month, week_day, year] => {
                remarks.push(Remark::Minutes);
                ["*", minute, hour, month_day, month, week_day, year]
            }
            [second, minute, hour, month_day, month, week_day, year, ref surplus @ ..] => {
                if !surplus.is_empty() {
                    remarks.push(Remark::Surplus);
                }
                [second, minute, hour, month_day, month, week_day, year]
            }
            _ => return Err(PeriodError::SevenFields { found: fields.len() }),
        };
        let period = build(text, fields)?;
        if period.is_never() {
            remarks.push(Remark::Never);
        }
        Ok(Parsed { period, remarks })
    }
}

fn build(text: &str, fields: [&str; 7]) -> Result<Period, PeriodError> {
    let [second, minute, hour, month_day, month, week_day, year] = fields;
    Ok(Period {
        text: text.to_owned(),
        seconds: SECOND.set(second)?,
        minutes: MINUTE.set(minute)?,
        hours: HOUR.set(hour)?,
        month_days: month_days(month_day)?,
        months: MONTH.set(month)?,
        week_days: week_days(week_day)?,
        years: years(year)?,
    })
}

/// The items of a field; the empty one of a trailing comma goes.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.strip_suffix(',').unwrap_or(text).split(',')
}

fn is_every(item: &str) -> bool {
    item == "*" || item == "?"
}

fn is_special(item: &str) -> bool {
    let upper = item.to_ascii_uppercase();
    let digit_before =
        |suffix| upper.strip_suffix(suffix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    item == "?" || upper == "LW" || item.contains('#') || digit_before('L') || digit_before('W')
}

impl Field {
    fn set(&self, text: &str) -> Result<Set, PeriodError> {
        if items(text).any(is_every) {
            return Ok(Set::ALL);
        }
        let mut set = Set::NONE;
        for item in items(text) {
            for number in self.numbers(item)? {
                set.insert(number);
            }
        }
        Ok(set)
    }

    /// `*`, `n`, `a-b`, each with an optional `/step`; `n/step` runs to the field's end.
    fn numbers(&self, item: &str) -> Result<Vec<u32>, PeriodError> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let span = match range.split_once('-') {
            _ if is_every(range) => self.span(self.min, if self.max == 7 { 6 } else { self.max }),
            Some((first, last)) => self.span(self.number(first, item)?, self.number(last, item)?),
            None => {
                let first = self.number(range, item)?;
                self.span(first, if step.is_some() { self.max } else { first })
            }
        };
        let step = match step {
            Some(step) => step.parse().ok().filter(|step| *step > 0),
            None => Some(1),
        };
        let step: usize = step.ok_or_else(|| PeriodError::Step { item: item.to_owned() })?;
        Ok(span.into_iter().step_by(step).map(|number| self.normal(number)).collect())
    }

    /// From first to last; around the field's end where the last comes before the first.
    fn span(&self, first: u32, last: u32) -> Vec<u32> {
        if first <= last {
            return (first..=last).collect();
        }
        let end = if self.max == 7 { 6 } else { self.max };
        (first..=end).chain(self.min..=last).collect()
    }

    /// 7 is Sunday as 0 is.
    fn normal(&self, number: u32) -> u32 {
        if self.max == 7 && number == 7 { 0 } else { number }
    }

    /// A number in the field's range, or one of its words, in full or as three letters.
    fn number(&self, text: &str, item: &str) -> Result<u32, PeriodError> {
        let lower = text.to_ascii_lowercase();
        let word = self.words.iter().position(|word| lower == *word || word.get(..3) == Some(lower.as_str()));
        let number = match word {
            Some(at) => u32::try_from(at).ok().map(|at| at + self.min),
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            None => None,
        };
        number.filter(|number| (self.min..=self.max).contains(number)).ok_or_else(|| self.wrong(item))
    }

    fn wrong(&self, item: &str) -> PeriodError {
        PeriodError::Item { field: self.name, item: item.to_owned(), min: self.min, max: self.max }
    }
}

fn month_days(text: &str) -> Result<MonthDays, PeriodError> {
    let mut field = MonthDays { restricted: true, days: Set::NONE, specials: Vec::new() };
    for item in items(text) {
        let upper = item.to_ascii_uppercase();
        match upper.as_str() {
            "*" | "?" => {
                field.restricted = false;
                field.days = Set::ALL;
            }
            "L" => field.specials.push(SpecialMonthDay::Last),
            "LW" | "WL" => field.specials.push(SpecialMonthDay::LastWorkday),
            _ => match upper.strip_suffix('W') {
                Some(day) => {
                    let day = MONTH_DAY.number(day, item)?;
                    let day = i8::try_from(day).map_err(|_| MONTH_DAY.wrong(item))?;
                    field.specials.push(SpecialMonthDay::NearestWorkday(day));
                }
                None => MONTH_DAY.numbers(item)?.into_iter().for_each(|day| field.days.insert(day)),
            },
        }
    }
    Ok(field)
}

fn week_days(text: &str) -> Result<WeekDays, PeriodError> {
    let mut field = WeekDays { restricted: true, days: Set::NONE, specials: Vec::new() };
    let day = |text: &str, item: &str| {
        let number = WEEK_DAY.normal(WEEK_DAY.number(text, item)?);
        i8::try_from(number).map_err(|_| WEEK_DAY.wrong(item))
    };
    for item in items(text) {
        let last = item.strip_suffix(['L', 'l']).filter(|_| !is_every(item) && !item.contains('-'));
        if is_every(item) {
            field.restricted = false;
            field.days = Set::ALL;
        } else if let Some((name, nth)) = item.split_once('#') {
            let nth = nth.parse().ok().filter(|nth| (1..=5).contains(nth)).ok_or_else(|| WEEK_DAY.wrong(item))?;
            field.specials.push(SpecialWeekDay::Nth(day(name, item)?, nth));
        } else if let Some(name) = last {
            field.specials.push(SpecialWeekDay::Last(day(name, item)?));
        } else {
            WEEK_DAY.numbers(item)?.into_iter().for_each(|number| field.days.insert(number));
        }
    }
    Ok(field)
}

fn years(text: &str) -> Result<Option<Vec<i16>>, PeriodError> {
    let mut years = Vec::new();
    for item in items(text) {
        if is_every(item) {
            return Ok(None);
        }
        years.extend(YEAR.numbers(item)?.into_iter().filter_map(|year| i16::try_from(year).ok()));
    }
    years.sort_unstable();
    years.dedup();
    Ok(Some(years))
}
