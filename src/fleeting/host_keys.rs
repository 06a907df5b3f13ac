//! Host keys: recorded at the first contact with an instance, checked ever after.
//!
//! Instances are new machines, so nobody can know their keys beforehand; but no later connection under the
//! same instance id may end at another machine. The store is plain memory: whoever keeps a journal loads it at
//! the start and writes down what [`HostKeys::take_new`] returns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ids::InstanceId;

/// A public key as OpenSSH writes it, without a comment: `ssh-ed25519 AAAA…`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct HostKey(String);

impl HostKey {
    /// Takes the two first words of a line in `known_hosts` or `.pub` style.
    pub fn new(openssh: &str) -> Self {
        let mut words = openssh.split_whitespace();
        let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Self(format!("{kind} {blob}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `ssh-ed25519`, …
    pub(in crate::fleeting) fn kind(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// The key's SHA-256 fingerprint, for messages; the key itself where it cannot be decoded.
    pub fn fingerprint(&self) -> String {
        russh::keys::PublicKey::from_openssh(&self.0)
            .map_or_else(|_| self.0.clone(), |key| key.fingerprint(russh::keys::HashAlg::Sha256).to_string())
    }
}

/// What is known of an instance's key when it presents one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fleeting) enum Verdict {
    Known,
    /// The first contact: recorded now.
    Recorded,
    Changed {
        expected: HostKey,
    },
}

/// The keys of all instances. Clones share them.
#[derive(Clone, Default)]
pub struct HostKeys(Arc<Shared>);

#[derive(Default)]
struct Shared {
    keys: Mutex<Keys>,
    recorded: Notify,
}

#[derive(Default)]
struct Keys {
    known: BTreeMap<InstanceId, HostKey>,
    new: BTreeSet<InstanceId>,
}

impl HostKeys {
    /// A store that knows these from before.
    pub fn preloaded(known: impl IntoIterator<Item = (InstanceId, HostKey)>) -> Self {
        let store = Self::default();
        store.keys().known.extend(known);
        store
    }

    /// The keys recorded since the last call, to be written down.
    pub fn take_new(&self) -> Vec<(InstanceId, HostKey)> {
        let mut keys = self.keys();
        let new = std::mem::take(&mut keys.new);
        new.into_iter().filter_map(|id| keys.known.get(&id).map(|key| (id.clone(), key.clone()))).collect()
    }

    /// Waits until there is something for [`HostKeys::take_new`].
    pub async fn recorded(&self) {
        self.0.recorded.notified().await;
    }

    /// The key of an instance, if it was met.
    pub fn get(&self, id: &InstanceId) -> Option<HostKey> {
        self.keys().known.get(id).cloned()
    }

    /// Forgets an instance that was deleted, so that its id may be used again.
    pub fn forget(&self, id: &InstanceId) {
        let mut keys = self.keys();
        keys.known.remove(id);
        keys.new.remove(id);
    }

    /// Records the key that the provider or the config names, in the place of another one.
    pub(in crate::fleeting) fn trust(&self, id: &InstanceId, key: &HostKey) {
        let mut keys = self.keys();
        if keys.known.get(id) != Some(key) {
            keys.known.insert(id.clone(), key.clone());
            keys.new.insert(id.clone());
            drop(keys);
            self.0.recorded.notify_one();
        }
    }

    pub(in crate::fleeting) fn check(&self, id: &InstanceId, presented: &HostKey) -> Verdict {
        let mut keys = self.keys();
        match keys.known.get(id) {
            Some(known) if known == presented => Verdict::Known,
            Some(known) => Verdict::Changed { expected: known.clone() },
            None => {
                keys.known.insert(id.clone(), presented.clone());
                keys.new.insert(id.clone());
                drop(keys);
                self.0.recorded.notify_one();
                Verdict::Recorded
            }
        }
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for HostKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKeys").field("known", &self.keys().known.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_is_recorded_and_another_is_refused_until_it_is_forgotten() {
        let (keys, id) = (HostKeys::default(), InstanceId::new("i-1"));
        let (a, b) = (HostKey::new("ssh-ed25519 AAAA a@host"), HostKey::new("ssh-ed25519 BBBB"));
        assert_eq!(keys.check(&id, &a), Verdict::Recorded);
        assert_eq!(keys.check(&id, &HostKey::new("ssh-ed25519 AAAA other comment")), Verdict::Known);
        assert_eq!(keys.check(&id, &b), Verdict::Changed { expected: a.clone() });
        assert_eq!(keys.get(&id), Some(a.clone()), "a changed key is not recorded");
        assert_eq!(keys.take_new(), [(id.clone(), a)]);
        assert_eq!(keys.take_new(), []);
        keys.forget(&id);
        assert_eq!(keys.check(&id, &b), Verdict::Recorded);
    }

    #[test]
    fn a_key_that_is_named_replaces_a_recorded_one() {
        let (keys, id) = (HostKeys::default(), InstanceId::new("i-1"));
        let (a, b) = (HostKey::new("ssh-ed25519 AAAA"), HostKey::new("ssh-ed25519 BBBB"));
        keys.check(&id, &a);
        keys.take_new();
        keys.trust(&id, &b);
        assert_eq!(keys.check(&id, &b), Verdict::Known);
        assert_eq!(keys.check(&id, &a), Verdict::Changed { expected: b.clone() });
        assert_eq!(keys.take_new(), [(id.clone(), b.clone())]);
        keys.trust(&id, &b);
        assert_eq!(keys.take_new(), [], "the same key is not written down again");
    }

    #[test]
    fn preloaded_keys_are_checked_and_not_reported_again() {
        let (id, key) = (InstanceId::new("i-1"), HostKey::new("ssh-ed25519 AAAA"));
        let keys = HostKeys::preloaded([(id.clone(), key.clone())]);
        assert_eq!(keys.check(&id, &key), Verdict::Known);
        assert_eq!(keys.take_new(), []);
        assert_eq!(keys.check(&id, &HostKey::new("ssh-rsa AAAA")), Verdict::Changed { expected: key });
    }
}
