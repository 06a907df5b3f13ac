//! Whether a poll may ask for a job.
//!
//! A reservation promises that a job will find a slot. What it may count on is the mode's business:
//!
//! * preemptive (`preemptive_mode = true`): only what is idle now;
//! * on demand (`preemptive_mode = false`): whatever could be created;
//! * adaptive (neither is set): what is idle and, while GitLab goes on answering polls with jobs, what could be
//!   booted now as well, so that a burst of 40 jobs asks for its 40 instances at once. One poll at a time may
//!   count on an instance that is coming up anyway, to find out whether jobs come. With an idle target of 0
//!   nothing is ever idle, so there is nothing to wait for.
//!
//! `reservation_throttling = true` keeps one idle instance unpromised in any of them.

use super::policy::ActivePolicy;
use super::reasons::{Refusal, SlotCounts};

/// What a reservation may count on besides idle slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeyondIdle {
    Never,
    Always,
    WhileJobsCome,
}

/// The rules that hold now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    pub beyond_idle: BeyondIdle,
    pub throttled: bool,
}

impl Mode {
    /// `reservation_throttling` and `preemptive_mode` act only where the file has them.
    pub fn new(policy: &ActivePolicy, reservation_throttling: Option<bool>) -> Self {
        let beyond_idle = match policy.preemptive_mode {
            Some(true) => BeyondIdle::Never,
            Some(false) => BeyondIdle::Always,
            None => BeyondIdle::WhileJobsCome,
        };
        Self { beyond_idle, throttled: reservation_throttling == Some(true) }
    }

    /// The word that `check` prints.
    pub fn as_str(self) -> &'static str {
        match (self.beyond_idle, self.throttled) {
            (BeyondIdle::Never, _) => "preemptive",
            (BeyondIdle::Always | BeyondIdle::WhileJobsCome, true) => "throttled",
            (BeyondIdle::Always, false) => "on demand",
            (BeyondIdle::WhileJobsCome, false) => "adaptive",
        }
    }
}

/// What there is to promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Supply {
    pub slots: SlotCounts,
    pub pending: u32,
    /// Slots of instances that could be asked for now.
    pub bootable: u32,
    pub capacity_per_instance: u32,
    /// Jobs for which the policy wants idle slots.
    pub idle_target: u32,
    /// New instances fail, or the group does not deliver.
    pub creations_fail: bool,
    /// A poll has brought a job lately.
    pub jobs_come: bool,
}

/// Decides about one more reservation.
pub(super) fn admit(mode: Mode, supply: &Supply) -> Result<(), Refusal> {
    let SlotCounts { idle, reserved, unready, .. } = supply.slots;
    let per_instance = supply.capacity_per_instance;
    if mode.throttled && idle > per_instance && reserved >= idle - per_instance {
        return Err(Refusal::Throttled(supply.slots));
    }
    if idle > reserved {
        return Ok(());
    }
    let promised = reserved + supply.pending;
    let nothing_to_wait_for = supply.idle_target == 0;
    let finds_out = promised == 0 && unready > 0;
    match mode.beyond_idle {
        BeyondIdle::Never => return Err(Refusal::NoneAvailable(supply.slots)),
        BeyondIdle::WhileJobsCome if !(supply.jobs_come || nothing_to_wait_for || finds_out) => {
            return Err(Refusal::NoneAvailable(supply.slots));
        }
        BeyondIdle::Always | BeyondIdle::WhileJobsCome => {}
    }
    // Where nothing is ever idle, one poll at a time finds out whether creations work again.
    if supply.creations_fail && !(nothing_to_wait_for && promised == 0 && supply.bootable > 0) {
        return Err(Refusal::CreationsFail(supply.slots));
    }
    if promised >= idle.saturating_add(unready).saturating_add(supply.bootable) {
        return Err(Refusal::NoPotential(supply.slots));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAPTIVE: Mode = Mode { beyond_idle: BeyondIdle::WhileJobsCome, throttled: false };
    const PREEMPTIVE: Mode = Mode { beyond_idle: BeyondIdle::Never, throttled: false };
    const ON_DEMAND: Mode = Mode { beyond_idle: BeyondIdle::Always, throttled: false };

    fn supply(idle: u32, reserved: u32) -> Supply {
        Supply {
            slots: SlotCounts { idle, reserved, ..SlotCounts::default() },
            bootable: 10,
            capacity_per_instance: 1,
            idle_target: 5,
            ..Supply::default()
        }
    }

    #[test]
    fn idle_capacity_is_promised_in_every_mode() {
        for mode in [ADAPTIVE, PREEMPTIVE, ON_DEMAND] {
            assert_eq!(admit(mode, &supply(1, 0)), Ok(()), "{mode:?}");
        }
    }

    #[test]
    fn preemptive_mode_never_promises_what_is_not_there() {
        let supply = Supply { jobs_come: true, ..supply(2, 2) };
        assert_eq!(admit(PREEMPTIVE, &supply), Err(Refusal::NoneAvailable(supply.slots)));
    }

    #[test]
    fn adaptive_mode_goes_beyond_idle_while_jobs_come() {
        let quiet = supply(0, 0);
        assert_eq!(admit(ADAPTIVE, &quiet), Err(Refusal::NoneAvailable(quiet.slots)));
        assert_eq!(admit(ADAPTIVE, &Supply { jobs_come: true, ..quiet }), Ok(()));
        assert_eq!(admit(ADAPTIVE, &Supply { idle_target: 0, ..quiet }), Ok(()));
    }

    #[test]
    fn one_poll_at_a_time_counts_on_what_comes_up_anyway() {
        let mut booting = supply(0, 0);
        booting.slots.unready = 5;
        assert_eq!(admit(ADAPTIVE, &booting), Ok(()));
        booting.slots.reserved = 1;
        assert_eq!(admit(ADAPTIVE, &booting), Err(Refusal::NoneAvailable(booting.slots)));
        assert_eq!(admit(PREEMPTIVE, &booting), Err(Refusal::NoneAvailable(booting.slots)));
    }

    #[test]
    fn no_more_is_promised_than_could_be_booted_now() {
        let mut supply = Supply { jobs_come: true, pending: 3, ..supply(0, 6) };
        supply.slots.unready = 2;
        supply.bootable = 8;
        assert_eq!(admit(ADAPTIVE, &supply), Ok(()));
        supply.bootable = 7;
        assert_eq!(admit(ADAPTIVE, &supply), Err(Refusal::NoPotential(supply.slots)));
        assert_eq!(admit(ON_DEMAND, &supply), Err(Refusal::NoPotential(supply.slots)));
    }

    #[test]
    fn nothing_is_promised_beyond_idle_while_creations_fail() {
        let failing = Supply { jobs_come: true, creations_fail: true, ..supply(0, 0) };
        assert_eq!(admit(ADAPTIVE, &failing), Err(Refusal::CreationsFail(failing.slots)));
        assert_eq!(admit(ADAPTIVE, &Supply { idle_target: 0, ..failing }), Ok(()), "one poll finds out");
        let second = Supply { idle_target: 0, pending: 1, ..failing };
        assert_eq!(admit(ADAPTIVE, &second), Err(Refusal::CreationsFail(second.slots)));
    }

    #[test]
    fn throttling_keeps_one_idle_instance_unpromised_but_never_the_only_one() {
        let throttled = Mode { throttled: true, ..ADAPTIVE };
        assert_eq!(admit(throttled, &supply(3, 1)), Ok(()));
        assert_eq!(admit(throttled, &supply(3, 2)), Err(Refusal::Throttled(supply(3, 2).slots)));
        assert_eq!(admit(throttled, &supply(1, 0)), Ok(()));
    }
}
