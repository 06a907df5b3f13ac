//! What a large fleet costs the taskscaler's core: one pass over 10,000 instances and 10,000 keys is to stay below 5 ms.
//! The memory of an instance is told first.

#![expect(clippy::print_stdout, reason = "the memory that it measures is printed")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use flotilla::ids::{InstanceId, ReservationKey};
use flotilla::taskscaler::core::policy::{Always, Policy, Target};
use flotilla::taskscaler::core::records::Restored;
use flotilla::taskscaler::core::settings::{OnShutdown, ScaleThrottle, Settings, UnknownInstances};
use flotilla::taskscaler::core::{Command, Core, Event, GroupState, Listing, Release, Ticket};
use flotilla::time::Now;

const INSTANCES: u32 = 10_000;

fn settings() -> Settings {
    let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    let target = Target { idle_count: 1000, idle_time: Duration::from_secs(600), ..Target::default() };
    Settings {
        capacity_per_instance: number(2),
        max_use_count: None,
        max_instances: Some(number(INSTANCES)),
        policies: vec![Policy { periods: Arc::new(Always), target, preemptive_mode: Some(false) }],
        reservation_throttling: None,
        scale_throttle: ScaleThrottle::Unlimited,
        acquire_timeout: Duration::from_secs(900),
        update_interval: Duration::from_secs(60),
        update_interval_when_expecting: Duration::from_secs(2),
        deletion_retry_interval: Duration::from_secs(60),
        failure_threshold: number(3),
        // Checks are events of their own.
        liveness_interval: Duration::from_secs(3600),
        on_shutdown: OnShutdown::Keep,
        unknown: UnknownInstances::Adopt,
    }
}

fn listing() -> Listing {
    let running = |number| (InstanceId::new(format!("i-{number:06}")), GroupState::Running);
    Listing { target: Some(INSTANCES), instances: (0..INSTANCES).map(running).collect() }
}

fn key(number: u64) -> ReservationKey {
    ReservationKey::new(format!("key-{number:06}"))
}

/// Answers every command at once, as a group would for which nothing goes wrong.
fn obey(core: &mut Core, now: Now) {
    while let Some(command) = core.next_command() {
        if let Command::Prepare { instance } = command {
            core.handle(Event::InstancePrepared { instance, result: Ok(()) }, now);
        } else if let Command::Check { instance } = command {
            core.handle(Event::InstanceChecked { instance, result: Ok(()) }, now);
        }
    }
}

/// 10,000 ready instances, half of their slots taken: 10,000 keys with a slot.
fn fleet(now: Now) -> Core {
    let mut core = Core::new(settings(), now);
    core.handle(Event::Started { group_max: None, restored: Restored::default() }, now);
    core.handle(Event::GroupListed(listing()), now);
    obey(&mut core, now);
    for number in 0..u64::from(INSTANCES) {
        core.handle(Event::AcquisitionRequested { ticket: Ticket(number), key: key(number) }, now);
    }
    obey(&mut core, now);
    core
}

/// The same with no slot free, and as many keys again that wait for one.
fn crowd(now: Now) -> Core {
    let mut core = fleet(now);
    for number in u64::from(INSTANCES)..3 * u64::from(INSTANCES) {
        core.handle(Event::AcquisitionRequested { ticket: Ticket(number), key: key(number) }, now);
    }
    obey(&mut core, now);
    core
}

/// Resident memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn passes(criterion: &mut Criterion) {
    let now = flotilla::time::now();
    let before = resident();
    let mut core = fleet(now);
    let each = resident().saturating_sub(before) * 1024 / INSTANCES as usize;
    println!("memory of a tracked instance with a job: {each} bytes");
    let later = now.after(Duration::from_secs(1));
    criterion.bench_function("one pass", |bencher| {
        bencher.iter(|| {
            core.handle_timeout(later);
            obey(&mut core, later);
        });
    });
    let mut ticket = 1_000_000;
    criterion.bench_function("a job comes and goes", |bencher| {
        bencher.iter(|| {
            ticket += 1;
            core.handle(Event::ReservationRequested { ticket: Ticket(ticket), key: key(ticket) }, later);
            core.handle(Event::AcquisitionRequested { ticket: Ticket(ticket), key: key(ticket) }, later);
            obey(&mut core, later);
            core.handle(Event::Released { key: key(ticket), release: Release::Finished }, later);
            obey(&mut core, later);
        });
    });
    let idle = now.after(Duration::from_secs(601));
    criterion.bench_function("a pass that gives up 4,500 idle instances", |bencher| {
        bencher.iter_batched_ref(
            || fleet(now),
            |core| {
                core.handle_timeout(idle);
                obey(core, idle);
            },
            BatchSize::LargeInput,
        );
    });
    criterion.bench_function("a pass with 10,000 more jobs that wait", |bencher| {
        bencher.iter_batched_ref(
            || crowd(now),
            |core| {
                core.handle_timeout(later);
                obey(core, later);
            },
            BatchSize::LargeInput,
        );
    });
    let mut step = now;
    criterion.bench_function("a listing of all", |bencher| {
        bencher.iter_batched(
            listing,
            |listing| {
                step = step.after(Duration::from_secs(61));
                core.handle_timeout(step);
                obey(&mut core, step);
                core.handle(Event::GroupListed(listing), step);
                obey(&mut core, step);
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, passes);
criterion_main!(benches);
