//! How many job requests one runner may have under way at once.
//!
//! `request_concurrency` is the hard limit. Under it the limit follows what GitLab answers, as the
//! reference does with `FF_USE_ADAPTIVE_REQUEST_CONCURRENCY`: a pushed-back request halves it, a job
//! raises it by a tenth, an empty answer lowers it by a twentieth.

/// The adaptive limit of one runner.
#[derive(Clone, Debug)]
pub struct RequestConcurrency {
    hard: u32,
    adaptive: Option<f64>,
}

/// What a finished request says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// A status asked us to come back later (429, 5xx) at least once.
    PushedBack,
    Job,
    NoJob,
}

impl RequestConcurrency {
    /// `hard` is at least 1; without `adaptive` the hard limit is the limit.
    pub fn new(hard: u32, adaptive: bool) -> Self {
        Self { hard: hard.max(1), adaptive: adaptive.then_some(1.0) }
    }

    /// The limit now, from 1 to the hard limit.
    pub fn limit(&self) -> u32 {
        match self.adaptive {
            None => self.hard,
            Some(limit) => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "kept between 1 and a u32")]
                let limit = limit.ceil() as u32;
                limit.clamp(1, self.hard)
            }
        }
    }

    pub fn learn(&mut self, feedback: Feedback) {
        let Some(limit) = &mut self.adaptive else { return };
        let factor = match feedback {
            Feedback::PushedBack => 0.5,
            Feedback::Job => 1.1,
            Feedback::NoJob => 0.95,
        };
        *limit = (*limit * factor).clamp(1.0, f64::from(self.hard));
    }

    /// A changed configuration keeps what was learned.
    pub fn reconfigure(&mut self, hard: u32, adaptive: bool) {
        self.hard = hard.max(1);
        self.adaptive = adaptive.then(|| self.adaptive.unwrap_or(1.0).min(f64::from(self.hard)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_raise_the_limit_up_to_request_concurrency() {
        let mut limit = RequestConcurrency::new(3, true);
        assert_eq!(limit.limit(), 1);
        limit.learn(Feedback::Job);
        assert_eq!(limit.limit(), 2);
        for _ in 0..50 {
            limit.learn(Feedback::Job);
        }
        assert_eq!(limit.limit(), 3);
    }

    #[test]
    fn a_pushed_back_request_halves_it_and_never_below_one() {
        let mut limit = RequestConcurrency::new(8, true);
        for _ in 0..50 {
            limit.learn(Feedback::Job);
        }
        limit.learn(Feedback::PushedBack);
        assert_eq!(limit.limit(), 4);
        for _ in 0..9 {
            limit.learn(Feedback::PushedBack);
        }
        assert_eq!(limit.limit(), 1);
    }

    #[test]
    fn without_the_flag_the_hard_limit_holds() {
        let mut limit = RequestConcurrency::new(4, false);
        limit.learn(Feedback::PushedBack);
        assert_eq!(limit.limit(), 4);
    }
}
