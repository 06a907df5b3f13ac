//! What is true of the core between any two events. The simulator checks it after each step; the names I1, I2,
//! I3 are those of the promises.

use super::Core;

impl Core {
    /// Looks for a contradiction in what the core believes. For tests and debugging: it walks everything.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn verify(&self) -> Result<(), String> {
        self.verify_counts()?;
        self.verify_slots()?;
        self.verify_claims()
    }

    fn verify_counts(&self) -> Result<(), String> {
        let (kept, recounted) = (self.fleet.tally(), self.fleet.recount());
        if *kept != recounted {
            return Err(format!("counts drifted: {kept:?} kept, {recounted:?} counted"));
        }
        Ok(())
    }

    /// I2 and I3: an instance has no more jobs than slots, and no more uses than it may have.
    fn verify_slots(&self) -> Result<(), String> {
        // A reload may lower the limits below what is in use; simulations that reload do not check this.
        let shape = self.fleet.shape();
        for (id, instance) in self.fleet.iter() {
            let taken = instance.slots.taken();
            if taken > shape.capacity.get() {
                return Err(format!("I3: {id} has {taken} jobs in {} slots", shape.capacity));
            }
            if let Some(max) = shape.max_uses
                && instance.uses > max.get()
            {
                return Err(format!("I2: {id} was used {} times of {max}", instance.uses));
            }
            if taken > instance.uses {
                return Err(format!("I2: {id} has {taken} jobs and {} uses", instance.uses));
            }
        }
        Ok(())
    }

    /// I1: each claim with a place is in that slot, and each slot of ours has such a claim.
    fn verify_claims(&self) -> Result<(), String> {
        use super::keys::Claim;
        use super::slots::Occupant;
        let mut placed = 0_u32;
        for (key, claim) in self.keys.iter() {
            let (place, candidate) = match claim {
                Claim::Candidate { place, .. } => (place, true),
                Claim::Acquired(place) => (place, false),
                Claim::Reserved | Claim::Pending(_) | Claim::Lost => continue,
            };
            placed += 1;
            let occupant = self.fleet.get(&place.instance).and_then(|it| it.slots.get(place.slot));
            let fits = match occupant {
                Some(Occupant::Candidate(held)) => candidate && held == key,
                Some(Occupant::Job(held)) => !candidate && held == key,
                Some(Occupant::Former(_)) | None => false,
            };
            if !fits {
                return Err(format!("I1: {key} claims {place:?}, which holds {occupant:?}"));
            }
        }
        let former = |occupant: &Occupant| matches!(occupant, Occupant::Former(_));
        let held = self.fleet.iter().flat_map(|(_, it)| it.slots.iter()).filter(|(_, o)| !former(o)).count();
        if u32::try_from(held) != Ok(placed) {
            return Err(format!("I1: {placed} claims for {held} slots"));
        }
        Ok(())
    }
}
