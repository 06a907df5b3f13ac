//! The executors and the detached stages under them, with real shells and a real Docker Engine, and streams that
//! can be cut; no SSH in the way.

mod agents;
mod attacks;
mod bench;
mod detached;
mod docker;
mod instance;
mod machine;
