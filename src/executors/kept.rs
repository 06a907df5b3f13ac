//! What an executor keeps of each instance between jobs. It goes when its instance is gone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::fleeting::access::InstanceAccess;
use crate::ids::InstanceId;

/// One value an instance, made when it is first asked for.
pub(super) struct Kept<T> {
    entries: Mutex<BTreeMap<InstanceId, Entry<T>>>,
}

struct Entry<T> {
    instance: Arc<dyn InstanceAccess>,
    value: Arc<T>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(entries.keys()).finish()
    }
}

impl<T: Default> Kept<T> {
    /// The value of this instance. What was kept of instances that are gone is dropped on the way.
    pub(super) fn of(&self, instance: &Arc<dyn InstanceAccess>) -> Arc<T> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // A host that was put aside and came back has the same name, and may have been wiped.
        if let Some(entry) = entries.get(instance.id()).filter(|entry| !entry.instance.is_gone()) {
            return Arc::clone(&entry.value);
        }
        entries.retain(|_, entry| !entry.instance.is_gone());
        let entry = Entry { instance: Arc::clone(instance), value: Arc::default() };
        Arc::clone(&entries.entry(instance.id().clone()).or_insert(entry).value)
    }
}
