//! Tests of the core as a whole. [`world`] is what surrounds it: a group, GitLab's queue and a clock, all
//! simulated; the scenarios set it up by hand, the simulation by seed.

mod arrivals;
mod broken;
mod crashes;
mod direct;
mod growth;
mod mutants;
mod pool;
mod properties;
mod rules;
mod scenarios;
mod script;
mod sim;
mod told;
mod world;
