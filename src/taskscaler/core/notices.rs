//! How often the same thing is said: what happens with each poll is told when it begins, and then once a minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The least time between two notices of a kind.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What has been said, by kind.
#[derive(Debug, Default)]
pub(super) struct Notices(BTreeMap<&'static str, Notice>);

#[derive(Debug)]
struct Notice {
    said: Instant,
    /// How often it has happened since then.
    unsaid: u32,
}

impl Notices {
    /// It has happened once more. Where it is to be said now: how often since it was said last.
    pub(super) fn count(&mut self, kind: &'static str, now: Instant) -> Option<u32> {
        let Some(notice) = self.0.get_mut(kind) else {
            self.0.insert(kind, Notice { said: now, unsaid: 0 });
            return Some(1);
        };
        notice.unsaid = notice.unsaid.saturating_add(1);
        if now < notice.said + SAID_EVERY {
            return None;
        }
        notice.said = now;
        Some(std::mem::take(&mut notice.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_is_said_and_then_a_count_once_a_minute() {
        let (mut notices, start) = (Notices::default(), crate::time::now().instant);
        let after = |seconds| start + Duration::from_secs(seconds);
        let said = [(0, "a"), (1, "a"), (2, "b"), (59, "a"), (60, "a"), (61, "a"), (600, "a")]
            .map(|(seconds, kind)| notices.count(kind, after(seconds)));
        assert_eq!(said, [Some(1), None, Some(1), None, Some(3), None, Some(2)]);
    }
}
