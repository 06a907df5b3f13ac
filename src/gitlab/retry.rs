//! When a request is tried again, and after how long. Pure: the caller sleeps.
//!
//! The rule is one for every request, job requests, updates, trace patches and artifacts alike.
//! Only answers are retried, never transport errors: those go to the caller, who has a back-off of its own.

use std::time::{Duration, SystemTime};

use super::date;
use crate::backoff::Backoff;

/// Tries of one request, the first included.
pub const MAX_ATTEMPTS: u32 = 5;
/// The longest wait inside a call. A longer one, such as the `Retry-After: 60` of a migration, is the
/// caller's, who may hold a permit or a reservation that others need.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// What is believed of the server's wish to be left alone.
pub const LONGEST_WISH: Duration = Duration::from_secs(60 * 60);

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(60);

/// Statuses with which a server says: not now.
pub fn is_push_back(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..=504 | 512..)
}

/// How long the server asks to be left alone: `RateLimit-ResetTime`, else `Retry-After` in seconds or as a date.
pub fn wish(rate_limit_reset: Option<&str>, retry_after: Option<&str>, now: SystemTime) -> Option<Duration> {
    let until = |text: &str| date::parse(text)?.duration_since(now).ok();
    let seconds = |text: &str| text.trim().parse().ok().map(Duration::from_secs);
    rate_limit_reset
        .and_then(until)
        .filter(|wait| !wait.is_zero())
        .or_else(|| retry_after.and_then(|text| seconds(text).or_else(|| until(text))))
        .filter(|wait| !wait.is_zero())
        .map(|wait| wait.min(LONGEST_WISH))
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the call's result.
    Final,
    /// It is, and the server named a wait that is the caller's.
    FinalWithWish(Duration),
    TryAgainAfter(Duration),
}

/// The tries of one call.
#[derive(Clone, Debug)]
pub struct Attempts {
    made: u32,
    pushed_back: bool,
    backoff: Backoff,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::waiting(Backoff::new(FIRST_BACKOFF, LAST_BACKOFF))
    }
}

impl Attempts {
    /// With another back-off where the server names no wait.
    pub fn waiting(backoff: Backoff) -> Self {
        Self { made: 1, pushed_back: false, backoff }
    }

    /// Judges the answer to the latest try. `wish` is what [`wish`] made of its headers, `random` between 0 and 1.
    pub fn judge(&mut self, status: u16, wish: Option<Duration>, random: f64) -> Verdict {
        self.judge_within(LONGEST_WAIT, status, wish, random)
    }

    /// As [`Attempts::judge`], by one who has nothing that others need and may wait so long.
    pub fn judge_within(
        &mut self,
        longest_wait: Duration,
        status: u16,
        wish: Option<Duration>,
        random: f64,
    ) -> Verdict {
        if !is_push_back(status) {
            return Verdict::Final;
        }
        self.pushed_back = true;
        let is_last = self.made >= MAX_ATTEMPTS;
        let wait = match wish {
            Some(wish) if is_last || wish > longest_wait => return Verdict::FinalWithWish(wish),
            Some(wish) => wish,
            None if is_last => return Verdict::Final,
            None => self.backoff.next_wait_at(random),
        };
        if wait > longest_wait {
            return Verdict::Final;
        }
        self.made += 1;
        Verdict::TryAgainAfter(wait)
    }

    /// Tries so far, the first included.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Whether any answer was a refusal of the moment, whatever came after it.
    pub fn pushed_back(&self) -> bool {
        self.pushed_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_that_are_tried_again_are_the_references() {
        let retried: Vec<u16> = (100..600).filter(|status| is_push_back(*status)).collect();
        let expected: Vec<u16> = [408, 429, 500, 502, 503, 504].into_iter().chain(512..600).collect();
        assert_eq!(retried, expected);
    }

    #[test]
    fn five_tries_with_doubling_waits_then_the_answer_is_final() {
        let mut attempts = Attempts::default();
        let verdicts: Vec<Verdict> = (0..5).map(|_| attempts.judge(500, None, 1.0)).collect();
        let wait = |millis| Verdict::TryAgainAfter(Duration::from_millis(millis));
        assert_eq!(verdicts, [wait(200), wait(400), wait(800), wait(1600), Verdict::Final]);
        assert_eq!((attempts.made(), attempts.pushed_back()), (5, true));
    }

    #[test]
    fn a_short_wish_is_waited_for_and_a_long_one_is_the_callers() {
        let mut attempts = Attempts::default();
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(attempts.judge(429, Some(short), 0.0), Verdict::TryAgainAfter(short));
        assert_eq!(attempts.judge(429, Some(long), 0.0), Verdict::FinalWithWish(long));
        assert_eq!(attempts.made(), 2);
    }

    #[test]
    fn who_holds_nothing_waits_as_long_as_asked_while_there_is_time() {
        let mut attempts = Attempts::default();
        let (migration, time_left) = (Duration::from_secs(60), Duration::from_secs(100));
        let judge = |attempts: &mut Attempts, left| attempts.judge_within(left, 429, Some(migration), 0.0);
        assert_eq!(judge(&mut attempts, time_left), Verdict::TryAgainAfter(migration));
        assert_eq!(judge(&mut attempts, time_left - migration), Verdict::FinalWithWish(migration));
        let no_time = Attempts::default().judge_within(Duration::from_millis(50), 500, None, 0.0);
        assert_eq!(no_time, Verdict::Final);
    }

    #[test]
    fn the_last_refusal_still_tells_its_wish() {
        let mut attempts = Attempts::default();
        let wish = Some(Duration::from_secs(1));
        let last = (0..5).map(|_| attempts.judge(429, wish, 0.0)).last();
        assert_eq!(last, Some(Verdict::FinalWithWish(Duration::from_secs(1))));
    }

    #[test]
    fn a_success_after_a_refusal_remembers_the_push_back() {
        let mut attempts = Attempts::default();
        attempts.judge(503, None, 0.0);
        assert_eq!(attempts.judge(201, None, 0.0), Verdict::Final);
        assert!(attempts.pushed_back());
        assert!(!Attempts::default().pushed_back());
    }

    #[test]
    fn the_rate_limits_reset_goes_before_retry_after() {
        let now = date::parse("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let (reset, past) = (Some("Sun, 06 Nov 1994 08:49:47 GMT"), Some("Sun, 06 Nov 1994 08:49:00 GMT"));
        let seconds = |count| Some(Duration::from_secs(count));
        for (rate_limit, retry_after, expected) in [
            (reset, Some("3"), seconds(10)),
            (past, Some("3"), seconds(3)),
            (Some("soon"), Some("3"), seconds(3)),
            (None, Some("0"), None),
            (None, Some("-1"), None),
            (None, Some("later"), None),
            (None, reset, seconds(10)),
            (None, Some("999999999"), Some(LONGEST_WISH)),
            (None, None, None),
        ] {
            assert_eq!(wish(rate_limit, retry_after, now), expected, "{rate_limit:?} {retry_after:?}");
        }
    }
}
