//! How many calls are made, and whose turn it is.
//!
//! AWS limits calls for each account and region, so all runners that share these share one budget. Of those who wait,
//! the most urgent goes first. The limits stay below what AWS documents or has been seen to allow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::time;

/// APIs with limits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    AutoScaling,
    Ec2,
    InstanceConnect,
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// A job waits for it.
    Jobs,
    Delete,
    Create,
    List,
}

/// Calls at once, and calls per second after that.
#[derive(Clone, Copy, Debug)]
struct Limit {
    burst: u32,
    per_second: u32,
}

const AUTO_SCALING: Limit = Limit { burst: 40, per_second: 10 };
/// EC2 documents 100 and 20 for `DescribeInstances`.
const EC2: Limit = Limit { burst: 50, per_second: 10 };
const INSTANCE_CONNECT: Limit = Limit { burst: 40, per_second: 20 };

/// Calls of one account in one region.
#[derive(Debug)]
pub(super) struct Budget {
    auto_scaling: Queue,
    ec2: Queue,
    instance_connect: Queue,
}

/// Endpoint, region and account.
type Key = (String, String, Option<String>);

static BUDGETS: LazyLock<Mutex<BTreeMap<Key, Weak<Budget>>>> = LazyLock::new(Mutex::default);

impl Budget {
    /// The budget that all groups of this account and region share. Groups that do not know their account yet share one.
    pub(super) fn shared(endpoint: &str, region: &str, account: Option<&str>) -> Arc<Self> {
        let key = (endpoint.to_owned(), region.to_owned(), account.map(str::to_owned));
        let mut budgets = BUDGETS.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.retain(|_, budget| budget.strong_count() > 0);
        if let Some(budget) = budgets.get(&key).and_then(Weak::upgrade) {
            return budget;
        }
        let budget = Arc::new(Self {
            auto_scaling: Queue::new(AUTO_SCALING),
            ec2: Queue::new(EC2),
            instance_connect: Queue::new(INSTANCE_CONNECT),
        });
        budgets.insert(key, Arc::downgrade(&budget));
        budget
    }

    /// Waits until this call may be made.
    pub(super) async fn take(&self, class: Class, priority: Priority) {
        self.queue(class).take(priority).await;
    }

    /// The API asked for fewer calls: what was saved up is lost.
    pub(super) fn throttled(&self, class: Class) {
        self.queue(class).bucket().empty();
    }

    fn queue(&self, class: Class) -> &Queue {
        match class {
            Class::AutoScaling => &self.auto_scaling,
            Class::Ec2 => &self.ec2,
            Class::InstanceConnect => &self.instance_connect,
        }
    }
}

/// A bucket, and those who wait for it.
#[derive(Debug)]
struct Queue {
    bucket: Mutex<Bucket>,
    /// Somebody has left the queue.
    moved: Notify,
}

impl Queue {
    fn new(limit: Limit) -> Self {
        Self { bucket: Mutex::new(Bucket::new(limit, time::now().instant)), moved: Notify::new() }
    }

    async fn take(&self, priority: Priority) {
        let ticket = self.bucket().join(priority);
        // A caller that gives up leaves the queue.
        let place = Place { queue: self, ticket };
        loop {
            let moved = self.moved.notified();
            let turn = self.bucket().turn(place.ticket, time::now().instant);
            match turn {
                Turn::Go => return,
                Turn::At(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = moved => {}
                    }
                }
                Turn::Behind => moved.await,
            }
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Place<'a> {
    queue: &'a Queue,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.bucket().leave(self.ticket);
        self.queue.moved.notify_waiters();
    }
}

/// A place in the queue; the least goes first.
type Ticket = (Priority, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The call may be made; it is counted.
    Go,
    /// This is the first in the queue, and there is something for it then.
    At(Instant),
    Behind,
}

/// Tokens that come back with time, and a queue. It chooses and does not wait.
#[derive(Debug)]
struct Bucket {
    limit: Limit,
    tokens: f64,
    /// When `tokens` was right.
    at: Instant,
    waiting: BTreeSet<Ticket>,
    next: u64,
}

impl Bucket {
    fn new(limit: Limit, now: Instant) -> Self {
        Self { limit, tokens: f64::from(limit.burst), at: now, waiting: BTreeSet::new(), next: 0 }
    }

    fn join(&mut self, priority: Priority) -> Ticket {
        let ticket = (priority, self.next);
        self.next += 1;
        self.waiting.insert(ticket);
        ticket
    }

    fn leave(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
    }

    fn turn(&mut self, ticket: Ticket, now: Instant) -> Turn {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let rate = f64::from(self.limit.per_second);
        self.tokens = (self.tokens + passed * rate).min(f64::from(self.limit.burst));
        if self.waiting.first() != Some(&ticket) {
            return Turn::Behind;
        }
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            self.waiting.remove(&ticket);
            return Turn::Go;
        }
        // A millisecond more than needed, so that rounding does not make it a moment too early.
        Turn::At(now + Duration::from_secs_f64((1.0 - self.tokens) / rate) + Duration::from_millis(1))
    }

    fn empty(&mut self) {
        self.tokens = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { burst: 2, per_second: 1 };

    #[test]
    fn the_burst_is_free_and_then_each_call_waits_for_its_token() {
        let start = time_zero();
        let mut bucket = Bucket::new(LIMIT, start);
        for _ in 0..2 {
            let ticket = bucket.join(Priority::List);
            assert_eq!(bucket.turn(ticket, start), Turn::Go);
        }
        let ticket = bucket.join(Priority::List);
        let Turn::At(at) = bucket.turn(ticket, start) else { panic!("it was first") };
        assert!(at >= start + Duration::from_secs(1) && at < start + Duration::from_millis(1_010));
        assert_eq!(bucket.turn(ticket, at), Turn::Go);
        let ticket = bucket.join(Priority::List);
        assert!(matches!(bucket.turn(ticket, at + Duration::from_secs(100)), Turn::Go), "no more than the burst");
        assert!(bucket.tokens <= 1.0);
    }

    #[test]
    fn the_most_urgent_goes_first_and_equals_in_their_order() {
        let start = time_zero();
        let mut bucket = Bucket::new(LIMIT, start);
        bucket.empty();
        let tickets = [Priority::List, Priority::Create, Priority::Delete, Priority::Delete, Priority::Jobs]
            .map(|priority| bucket.join(priority));
        let order = [4, 2, 3, 1, 0];
        for (second, place) in (1..).zip(order) {
            let now = start + Duration::from_secs(second);
            for (other, ticket) in tickets.iter().enumerate().filter(|(other, _)| *other != place) {
                assert!(!matches!(bucket.turn(*ticket, now), Turn::Go), "{other} before {place}");
            }
            assert_eq!(bucket.turn(tickets[place], now), Turn::Go, "{place}");
        }
    }

    #[test]
    fn who_gives_up_holds_nobody_up() {
        let start = time_zero();
        let mut bucket = Bucket::new(LIMIT, start);
        let (first, second) = (bucket.join(Priority::Jobs), bucket.join(Priority::List));
        assert_eq!(bucket.turn(second, start), Turn::Behind);
        bucket.leave(first);
        assert_eq!(bucket.turn(second, start), Turn::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_the_budget_of_their_account_and_region() {
        let [one, same, other] =
            ["1", "1", "2"].map(|account| Budget::shared("http://budget.test", "eu-central-1", Some(account)));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        let start = time::now().instant;
        let calls = (0..AUTO_SCALING.burst + 5).map(|number| {
            let budget = if number % 2 == 0 { &one } else { &same };
            budget.take(Class::AutoScaling, Priority::List)
        });
        futures_util::future::join_all(calls).await;
        let took = time::now().instant - start;
        assert!(took >= Duration::from_millis(500) && took < Duration::from_millis(600), "{took:?}");
        other.take(Class::AutoScaling, Priority::List).await;
        one.take(Class::Ec2, Priority::List).await;
        assert_eq!(time::now().instant - start, took, "other budgets are full");
    }

    fn time_zero() -> Instant {
        time::now().instant
    }
}
