//! What goes wrong, as switches.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lock;
use super::route::Route;
use crate::time;

/// At most this many switches are on at once.
const LIMIT: usize = 1_000;

/// Which calls a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Every,
    RequestJob,
    UpdateJob,
    PatchTrace,
    Artifacts,
    /// Registration, verification, removal, fresh tokens.
    Runners,
}

impl On {
    fn hits(self, route: Route) -> bool {
        let on = match route {
            Route::RequestJob => Self::RequestJob,
            Route::UpdateJob(_) => Self::UpdateJob,
            Route::PatchTrace(_) => Self::PatchTrace,
            Route::UploadArtifacts(_) | Route::DownloadArtifacts(_) | Route::Storage(_) => Self::Artifacts,
            Route::Register
            | Route::Verify
            | Route::Unregister
            | Route::UnregisterManager
            | Route::ResetToken
            | Route::ResetTokenOf(_)
            | Route::Discovery => Self::Runners,
            Route::Unknown => Self::Every,
        };
        self == Self::Every || self == on
    }
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// This answer, and nothing is done.
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
    /// The connection is lost before anything is done.
    LostBefore,
    /// The call is carried out, then the connection is lost without an answer.
    LostAfter,
    /// The call is carried out and its answer breaks off after so many bytes of the body.
    BreaksOff { after: usize },
    /// The call is carried out after a while.
    Late { by: Duration },
    /// The call is carried out and its answer's body comes in small pieces.
    SlowBytes { piece: usize, every: Duration },
    /// The answer's body begins and never goes on. With a status that is all, without one the call is carried out.
    Stalls { status: Option<u16> },
}

/// One switch.
#[derive(Clone, Debug)]
pub struct Fault {
    on: On,
    kind: FaultKind,
    left: Option<u32>,
    until: Option<Instant>,
}

impl Fault {
    /// Hits all such calls until it is cleared.
    pub fn new(on: On, kind: FaultKind) -> Self {
        Self { on, kind, left: None, until: None }
    }

    /// Answers with a bare status.
    pub fn status(on: On, status: u16) -> Self {
        Self::new(on, FaultKind::Answer { status, headers: Vec::new(), body: String::new() })
    }

    /// Adds a header to the answer; without effect on other kinds.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let FaultKind::Answer { headers, .. } = &mut self.kind {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Gives the answer a body; without effect on other kinds.
    #[must_use]
    pub fn body(mut self, text: &str) -> Self {
        if let FaultKind::Answer { body, .. } = &mut self.kind {
            text.clone_into(body);
        }
        self
    }

    /// Hits so many calls, then is gone.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self { left: Some(count), ..self }
    }

    /// Hits calls for so long from now, then is gone.
    #[must_use]
    pub fn lasting(self, time: Duration) -> Self {
        Self { until: Some(time::now().instant + time), ..self }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.left == Some(0) || self.until.is_some_and(|until| now >= until)
    }
}

/// The switches of one sandbox. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Faults {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    set: Mutex<Vec<Fault>>,
    /// Whether connections are refused.
    refusing: watch::Sender<bool>,
    /// Ends with the connections that exist; a fresh one takes its place.
    connected: Mutex<CancellationToken>,
    stop: CancellationToken,
}

impl Faults {
    pub(super) fn new(stop: CancellationToken) -> Self {
        let connected = Mutex::new(stop.child_token());
        Self { inner: Arc::new(Inner { set: Mutex::default(), refusing: watch::Sender::new(false), connected, stop }) }
    }

    /// Switches a fault on. The first one that is on and hits a call is the one that counts.
    pub fn add(&self, fault: Fault) {
        let mut set = lock(&self.inner.set);
        if set.len() < LIMIT {
            set.push(fault);
        }
    }

    /// Switches all faults off, and connections are taken again.
    pub fn clear(&self) {
        lock(&self.inner.set).clear();
        self.take_connections();
    }

    /// Cuts all connections and refuses new ones, as a server that is down.
    pub fn refuse_connections(&self) {
        self.inner.refusing.send_replace(true);
        self.cut_connections();
    }

    pub fn take_connections(&self) {
        self.inner.refusing.send_replace(false);
    }

    /// Cuts all connections that there are, held requests too; new ones are taken.
    pub fn cut_connections(&self) {
        let mut connected = lock(&self.inner.connected);
        connected.cancel();
        *connected = self.inner.stop.child_token();
    }

    /// What hits this call now.
    pub(super) fn hit(&self, route: Route, now: Instant) -> Option<FaultKind> {
        let mut set = lock(&self.inner.set);
        set.retain(|fault| !fault.is_over(now));
        let fault = set.iter_mut().find(|fault| fault.on.hits(route))?;
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
        Some(fault.kind.clone())
    }

    pub(super) fn refusing(&self) -> watch::Receiver<bool> {
        self.inner.refusing.subscribe()
    }

    /// The end of a connection that is made now.
    pub(super) fn connection_end(&self) -> CancellationToken {
        lock(&self.inner.connected).child_token()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_its_calls_as_often_as_said() {
        let faults = Faults::new(CancellationToken::new());
        faults.add(Fault::status(On::PatchTrace, 500).times(2));
        let now = time::now().instant;
        let patch = Route::PatchTrace(crate::ids::JobId(1));
        assert_eq!(faults.hit(Route::RequestJob, now), None);
        assert!(faults.hit(patch, now).is_some());
        assert!(faults.hit(patch, now).is_some());
        assert_eq!(faults.hit(patch, now), None);
    }

    #[test]
    fn a_fault_ends_with_its_time() {
        let faults = Faults::new(CancellationToken::new());
        faults.add(Fault::new(On::Every, FaultKind::LostBefore).lasting(Duration::from_secs(60)));
        let now = time::now().instant;
        assert!(faults.hit(Route::Unknown, now).is_some());
        assert_eq!(faults.hit(Route::Unknown, now + Duration::from_secs(61)), None);
    }
}
