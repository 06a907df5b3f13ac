//! The places for jobs on one instance.

use std::collections::BTreeMap;

use crate::ids::ReservationKey;

/// Who holds a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// A waiting job, until the instance has shown that it is alive.
    Candidate(ReservationKey),
    /// A job that was told so.
    Job(ReservationKey),
    /// A job of a manager that is gone, until what it left has been looked at.
    Former(ReservationKey),
}

impl Occupant {
    pub fn key(&self) -> &ReservationKey {
        match self {
            Self::Candidate(key) | Self::Job(key) | Self::Former(key) => key,
        }
    }
}

/// Slots by number, from 0; a number means the same place for as long as it is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots(BTreeMap<u32, Occupant>);

impl Slots {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn taken(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    pub fn get(&self, slot: u32) -> Option<&Occupant> {
        self.0.get(&slot)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Occupant)> {
        self.0.iter().map(|(slot, occupant)| (*slot, occupant))
    }

    /// Takes the lowest free slot.
    pub(super) fn take(&mut self, occupant: Occupant) -> u32 {
        let slot = self.0.keys().zip(0u32..).find(|(held, at)| *held != at).map_or_else(|| self.taken(), |(_, at)| at);
        self.0.insert(slot, occupant);
        slot
    }

    /// Puts an occupant where a record says it is.
    pub(super) fn restore(&mut self, slot: u32, occupant: Occupant) {
        self.0.insert(slot, occupant);
    }

    pub(super) fn free(&mut self, slot: u32) -> Option<Occupant> {
        self.0.remove(&slot)
    }

    pub(super) fn replace(&mut self, slot: u32, occupant: Occupant) {
        if let Some(held) = self.0.get_mut(&slot) {
            *held = occupant;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_slot_is_taken() {
        let job = |name: &str| Occupant::Job(ReservationKey::new(name));
        let mut slots = Slots::default();
        assert_eq!([slots.take(job("a")), slots.take(job("b")), slots.take(job("c"))], [0, 1, 2]);
        assert_eq!(slots.free(1), Some(job("b")));
        assert_eq!(slots.take(job("d")), 1);
        assert_eq!(slots.take(job("e")), 3);
        assert_eq!(slots.taken(), 4);
    }
}
