//! A runner's taskscaler with the tasks beside it, as one thing to run.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::{Instrument, Span, error};

use super::former_jobs::Teller;
use crate::ids::ReservationKey;
use crate::taskscaler;

/// Runs for as long as the runner has capacity.
#[derive(Debug)]
pub struct Scaler {
    pub(super) actor: taskscaler::Actor,
    pub(super) teller: Teller,
    pub(super) in_slots: BTreeSet<ReservationKey>,
    pub(super) span: Span,
    /// Held for as long as the runner's records are in use.
    pub(super) claim: Arc<()>,
}

impl Scaler {
    /// Runs to the end of the taskscaler; what is left to tell GitLab then stays in the journal.
    pub async fn run(self) {
        let Self { actor, teller, in_slots, span, claim } = self;
        let mut beside = JoinSet::new();
        beside.spawn(teller.run(in_slots).instrument(span));
        let mut actor = Box::pin(actor.run());
        loop {
            tokio::select! {
                () = &mut actor => break,
                Some(ended) = beside.join_next() => if let Err(fault) = ended {
                    error!(error = %fault, "a task beside a taskscaler ended badly");
                },
            }
        }
        drop(claim);
    }
}
