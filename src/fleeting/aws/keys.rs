//! EC2 Instance Connect: the public half of a key on an instance for a minute, for one user.
//!
//! One key serves a group for as long as this process lives. Jobs that dial an instance at the same time share one
//! call, and a key that is there is not sent again until shortly before it goes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use crate::fleeting::group::{GroupError, KeyMaterial, Operation};
use crate::ids::InstanceId;
use crate::time;

/// How long a key stays on an instance (user guide of EC2, "Connect using EC2 Instance Connect").
const STAYS: Duration = Duration::from_secs(60);

/// A login has to be through by then: the handshake takes its time.
const MARGIN: Duration = Duration::from_secs(10);

/// The keys of one group's instances.
#[derive(Debug, Default)]
pub(super) struct Keys {
    own: OnceLock<KeyMaterial>,
    sent: Mutex<BTreeMap<Receiver, Arc<tokio::sync::Mutex<Option<Sent>>>>>,
}

/// Who has a key: an instance's user.
type Receiver = (InstanceId, String);

/// A key that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    public: String,
    expires: SystemTime,
}

impl Keys {
    /// The key of this process.
    pub(super) fn own(&self) -> Result<KeyMaterial, GroupError> {
        if let Some(key) = self.own.get() {
            return Ok(key.clone());
        }
        let key = KeyMaterial::generate().map_err(|error| GroupError::failed(Operation::ConnectInfo, error))?;
        Ok(self.own.get_or_init(|| key).clone())
    }

    /// Has `send` bring the key to a user of an instance, unless it is there. Returns until when a login works.
    pub(super) async fn bring<F>(
        &self,
        id: &InstanceId,
        user: &str,
        key: &KeyMaterial,
        send: impl FnOnce(String) -> F,
    ) -> Result<SystemTime, GroupError>
    where
        F: Future<Output = Result<(), GroupError>>,
    {
        let public = key.public_line().map_err(|error| GroupError::failed(Operation::ConnectInfo, error))?;
        let place = Arc::clone(self.sent().entry((id.clone(), user.to_owned())).or_default());
        let mut sent = place.lock().await;
        let now = time::now().utc;
        if let Some(there) = sent.as_ref().filter(|sent| sent.serves(&public, now)) {
            return Ok(there.expires);
        }
        *sent = None;
        send(public.clone()).await?;
        let expires = now + STAYS - MARGIN;
        *sent = Some(Sent { public, expires });
        Ok(expires)
    }

    /// Forgets the instances that are gone.
    pub(super) fn keep_only(&self, is_there: impl Fn(&InstanceId) -> bool) {
        self.sent().retain(|(id, _), _| is_there(id));
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, BTreeMap<Receiver, Arc<tokio::sync::Mutex<Option<Sent>>>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent {
    fn serves(&self, public: &str, now: SystemTime) -> bool {
        self.public == public && now < self.expires
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn jobs_that_dial_together_share_one_key_that_is_sent_once() {
        let keys = Keys::default();
        let id = InstanceId::new("i-1");
        let key = keys.own().unwrap();
        let calls = AtomicU32::new(0);
        let send = |public: String| {
            assert!(public.starts_with("ssh-ed25519 "), "{public}");
            calls.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::task::yield_now().await;
                Ok(())
            }
        };
        let brought = futures_util::future::join_all((0..5).map(|_| keys.bring(&id, "ci", &key, send))).await;
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let first = brought[0].as_ref().unwrap();
        assert!(brought.iter().all(|expires| expires.as_ref().unwrap() == first));
        keys.bring(&id, "another", &key, send).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        keys.keep_only(|_| false);
        keys.bring(&id, "ci", &key, send).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 3, "an instance that was away may be another");
    }

    #[tokio::test]
    async fn a_key_that_was_refused_is_sent_again() {
        let keys = Keys::default();
        let id = InstanceId::new("i-1");
        let key = keys.own().unwrap();
        let failing = |_| async { Err(GroupError::UnknownInstance { id: InstanceId::new("i-1") }) };
        keys.bring(&id, "ci", &key, failing).await.unwrap_err();
        let expires = keys.bring(&id, "ci", &key, |_| async { Ok(()) }).await.unwrap();
        let left = expires.duration_since(time::now().utc).unwrap();
        assert!(left > Duration::from_secs(40) && left < STAYS, "{left:?}");
    }

    #[test]
    fn a_key_serves_until_it_goes_and_another_key_never() {
        let now = time::now().utc;
        let sent = Sent { public: "a".to_owned(), expires: now + Duration::from_secs(50) };
        assert!(sent.serves("a", now));
        assert!(!sent.serves("a", now + Duration::from_secs(50)));
        assert!(!sent.serves("b", now));
    }
}
