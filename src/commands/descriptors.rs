//! The process's limit of open descriptors. Each job needs a few, and the usual soft limit of 1,024 is for programs
//! that use `select`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// More descriptors than this are not asked for: programs that close all possible descriptors one by one, among them
/// programs that this process starts, take long with a larger limit.
const MOST: u64 = 1 << 20;

/// With fewer descriptors than this a manager of a hundred jobs may fail to open connections.
const FEW: u64 = 1024;

/// Raises the soft limit as far as the hard limit allows. Returns the limit in force; `None` stands for no limit.
pub(super) fn raise_limit() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    let wanted = raised(&before);
    if wanted != before
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        warn!(%error, "failed to raise the limit of open descriptors");
    }
    let limit = getrlimit(Resource::Nofile).current;
    match limit {
        Some(limit) if limit < FEW => {
            warn!(limit, "few descriptors may be open: raise the hard limit, LimitNOFILE= in a systemd unit");
        }
        Some(_) | None => debug!(?limit, "limit of open descriptors"),
    }
    limit
}

/// The limits to set: a soft limit is never lowered, a hard limit never changed.
fn raised(before: &Rlimit) -> Rlimit {
    let reachable = before.maximum.map_or(MOST, |hard| hard.min(MOST));
    let current = before.current.map(|soft| soft.max(reachable));
    Rlimit { current, maximum: before.maximum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit_or_a_million() {
        for (soft, hard, expected) in [
            (Some(1024), Some(524_288), Some(524_288)),
            (Some(1024), Some(1024), Some(1024)),
            (Some(1024), None, Some(MOST)),
            (Some(1024), Some(1 << 30), Some(MOST)),
            (Some(1 << 21), Some(1 << 30), Some(1 << 21)),
            (None, None, None),
        ] {
            let after = raised(&Rlimit { current: soft, maximum: hard });
            assert_eq!((after.current, after.maximum), (expected, hard), "{soft:?} {hard:?}");
        }
    }
}
